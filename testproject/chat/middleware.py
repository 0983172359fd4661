"""A strict Content-Security-Policy on every page."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

GetResponse = Callable[[HttpRequest], HttpResponse]

HEADER = "Content-Security-Policy"


class ContentSecurityPolicyMiddleware:
    """Allows nothing but the site's own files and sockets, unless the view has said otherwise."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer, and add the policy."""
        response = self.get_response(request)
        scheme = "wss" if request.is_secure() else "ws"
        policy = {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self'",
            # Safari before 15.4 does not take 'self' to include sockets.
            "connect-src": f"'self' {scheme}://{request.get_host()}",
            "form-action": "'self'",
            "base-uri": "'none'",
            "frame-ancestors": "'none'",
        }
        text = "; ".join(f"{directive} {sources}" for directive, sources in policy.items())
        response.headers.setdefault(HEADER, text)
        return response
