"""The exercises of each chapter; `cvattn.book.check` checks answers to them."""
