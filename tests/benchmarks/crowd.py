"""A crowd on one facility: what it costs at rest, and how long others wait while it is written to.

Its plan is that of ``load``, and so is what it prints, but for the figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import uvloop

from tests.benchmarks import machine
from tests.benchmarks.load import Load


class Crowd(Load):
    """One contender's run."""

    async def measure(self) -> dict[str, Any]:
        """Do nothing for a while, and then send as much as is taken."""
        plan, result = self.plan, dict[str, Any]()
        if plan["rest"]:
            result["rest"] = await self.rest()
        if plan["feed"]:
            result["quiet"] = await self.probe()
            async with self.feeding():
                await self.warm_up()
                result["busy"] = await self.flood()
                result["single"] = await self.single()
        return result

    async def rest(self) -> float:
        """Return the processor time that one idle socket takes in one second, in seconds."""
        before = self._totals()
        await asyncio.sleep(self.plan["rest"])
        cost = self._cost(before)
        return float(cost["server_cpu"] / cost["elapsed"] / len(self.plan["sockets"]))

    async def probe(self) -> dict[str, Any]:
        """Return how long others wait, in seconds."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.benchmarks.probe",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | self.plan["environment"],
        )
        plan = json.dumps(self.plan["probe"] | {"port": self.plan["port"]})
        output, _ = await process.communicate(plan.encode())
        if process.returncode:
            raise RuntimeError("the probe has failed")
        return {kind: _spread(took) for kind, took in json.loads(output).items()}

    async def flood(self) -> dict[str, Any]:
        """Keep messages on their way for as long as the probe needs."""
        before, received, lost = self._totals(), self.tally.received, 0
        probing = asyncio.create_task(self.probe())
        while not probing.done():
            while len(self.tally.missing) < self.plan["window"]:
                self.ask()
            lost += await self.wait_for(self.plan["window"] - 1)
        lost += await self.wait_for(0)
        cost = self._cost(before)
        deliveries = self.tally.received - received
        return probing.result() | {
            "lost": lost,
            "rate": deliveries / cost["elapsed"],
            "server_cpu": cost["server_cpu"] / deliveries,
        }


def _spread(took: list[float]) -> dict[str, float]:
    ordered = sorted(took)
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    found = {name: ordered[int(len(ordered) * share)] for name, share in shares.items()}
    return found | {"count": len(ordered)}


def main() -> None:
    """Carry out the plan."""
    machine.raise_file_limit()
    crowd = Crowd(json.load(sys.stdin))
    json.dump(uvloop.run(crowd.run()), sys.stdout)


if __name__ == "__main__":
    main()
