"""The public leaderboard: results of several studies and submissions, ranked together where they are comparable.

`entry` reads them, `conditions` says under what each table's numbers came about, `status` what independent re-runs say,
`merge` puts the rows together, and `files` writes the outcome. A function of the files alone: no clock, no machine.
"""
