"""Follow every link out of the built book, once, and list the dead ones.

    python _tools/links.py _build/html

A link is dead when its server says 404 or 410, or when nothing sensible has come back
after three tries. A server that refuses robots (401, 403, 405, 429) counts as alive: it
is printed, since only a person can look. Links inside the book are the browser tests'.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urldefrag
from urllib.request import Request, urlopen

AGENT = "Mozilla/5.0 (compatible; link check of a textbook)"
GUARDED = {401, 403, 405, 429}
DEAD = {404, 410}


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attributes):
        target = dict(attributes).get("href" if tag == "a" else "src") or ""
        if target.startswith(("http://", "https://")):
            self.found.add(urldefrag(target).url)


def links(folder):
    """Each address outside the book, with the pages that name it."""
    pages = {}
    for page in sorted(folder.rglob("*.html")):
        parser = Links()
        parser.feed(page.read_text(encoding="utf-8"))
        for address in parser.found:
            pages.setdefault(address, []).append(str(page.relative_to(folder)))
    return pages


def look(address, tries=3, pause=5.0, timeout=30.0):
    """'alive', or what is wrong: 'guarded 403', 'dead 404', 'dead TimeoutError'."""
    answer = "dead"
    for attempt in range(tries):
        time.sleep(pause * attempt)
        try:
            with urlopen(
                Request(address, headers={"User-Agent": AGENT}), timeout=timeout
            ):
                return "alive"
        except HTTPError as error:
            if error.code in GUARDED:
                return f"guarded {error.code}"
            answer = f"dead {error.code}"
            if error.code in DEAD:
                return answer
        except URLError as error:
            answer = f"dead {error.reason}"
        except (OSError, HTTPException, ValueError) as error:
            answer = f"dead {type(error).__name__}"
    return answer


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "_build/html")
    pages = links(folder)
    if not pages:
        sys.exit(f"no page of {folder} has a link: is the book built there?")
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(pages, pool.map(look, pages), strict=True))
    odd = {address: answer for address, answer in answers.items() if answer != "alive"}
    for address, answer in sorted(odd.items(), key=lambda item: item[1]):
        print(f"{answer:24}{address}  ({', '.join(pages[address][:3])})")
    dead = sum(answer.startswith("dead") for answer in odd.values())
    print(f"{len(pages)} links, {len(odd) - dead} guarded, {dead} dead")
    sys.exit(1 if dead else 0)


if __name__ == "__main__":
    main()
