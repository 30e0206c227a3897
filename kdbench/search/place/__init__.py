"""Ray Tune: where trainings run, on how many processors, and that they stay alive.

Ray is imported in this package alone. `executor` runs a study, `searcher` gives Tune its trials, `worker` is what runs
on the nodes, `connect` starts or finds the cluster, and `preflight` looks at its nodes. Nodes need not share a folder:
`transport` is the driver's side of that, `site` the worker's, and `depot` stands between them.
"""
