"""Kill a grid, freeze it, take things away from it: does it end as if nothing had happened? See __main__."""
