"""Where the README's numbers come from, apart from the tests."""
