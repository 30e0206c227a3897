"""A submission to the public leaderboard: a study's records and one JSON file that says whose they are.

`schema` is the file, `pack` makes a submission out of a study's folder, `check` holds one against its own records, and
`privacy` finds what does not belong in public. Nothing here trains, and nothing runs code that came with a submission.
"""
