"""Whether there is a network, asked before libraries that would retry for a minute."""

from __future__ import annotations

PROBE_SECONDS = 5.0


def host_answers(address: str) -> bool:
    """Whether a host answers at an address, through the proxy if one is configured."""
    import urllib.error
    import urllib.request

    request = urllib.request.Request(address, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # an error is an answer too
    except urllib.error.URLError as error:
        # A certificate that only the library itself trusts still means that there is a network.
        return type(error.reason).__name__ == "SSLCertVerificationError"
    except OSError:
        return False
    return True
