"""Stands in for curl on a machine without it: the few options our pages use."""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.request


def main() -> int:
    """Make the request; status 22 for an error answer, as `curl --fail` has it."""
    parser = argparse.ArgumentParser(prog="curl", allow_abbrev=False)
    parser.add_argument("url")
    parser.add_argument("-s", "--silent", action="store_true")
    parser.add_argument("-f", "--fail", action="store_true")
    parser.add_argument("-N", "--no-buffer", action="store_true")
    parser.add_argument("-H", "--header", action="append", default=[])
    parser.add_argument("-d", "--data")
    asked = parser.parse_args()
    headers = dict(header.split(": ", 1) for header in asked.header)
    url = asked.url if "://" in asked.url else f"http://{asked.url}"
    data = asked.data.encode() if asked.data else None
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - from our pages
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            sys.stdout.write(answer.read().decode())
    except urllib.error.HTTPError as error:
        sys.stdout.write("" if asked.fail else error.read().decode())
        return 22 if asked.fail else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
