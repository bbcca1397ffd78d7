"""Bad input of every kind that the catalogue numbers, each met by a real program: is it treated as it must be?"""
