"""Where the demo keeps its files; importable without Django."""

from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = BASE_DIR / "var"  # everything made at run time; ignored by git
REDIS_URL_FILE = VAR_DIR / "redis.url"
