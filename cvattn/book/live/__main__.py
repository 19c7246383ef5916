"""The command `python -m cvattn.book.live`."""

import sys
from pathlib import Path

from cvattn.book import live
from cvattn.book.live.pictures import page, shoot


def main(arguments: list[str]) -> None:
    match arguments:
        case ["shoot", *names]:
            shoot(Path(__file__).parent / "page", names)
        case ["page", folder]:
            for make in live.FIGURES:
                path = Path(folder) / f"{make.__name__}.html"
                path.write_text(page(make().html()), encoding="utf-8")
                print(path)
        case _:
            print(live.__doc__.split("\n\n", 2)[-1].strip())
            sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
