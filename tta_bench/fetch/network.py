"""Whether there is a network: asked before libraries that would try again for a minute."""

from __future__ import annotations

PROBE_SECONDS = 5.0


def answers(address: str) -> bool:
    """Whether anything answers at an address, by way of the proxy if there is one."""
    import urllib.error
    import urllib.request

    request = urllib.request.Request(address, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # an answer, if not a friendly one
    except urllib.error.URLError as error:
        # A certificate that only the library's own settings know is no missing network.
        return type(error.reason).__name__ == "SSLCertVerificationError"
    except OSError:
        return False
    return True
