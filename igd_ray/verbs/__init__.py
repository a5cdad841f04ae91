"""Commands of `igd`, one file per verb."""

# One module per verb in this folder; imported when asked for, so that `igd sql` does not wait for PyTorch.
VERBS = {
    "demo": "rank, search, attack and report on the embedded model, in minutes",
    "rank": "rank a layer's neurons for every class",
    "train": "train what a defense needs: SODEF's ODE block",
    "search": "find the smallest k that keeps clean accuracy, by bisection",
    "evaluate": "attack defenses and reduce to the image-wise worst case",
    "analyze": "show what stands behind the accuracies: classes, settings, neurons, loss surfaces, cost",
    "check": "check a defense of your own before it is evaluated",
    "new": "write a commented starting file for a defense of your own",
    "verify": "judge stored points again; fail where a stored verdict does not hold",
    "report": "write a run's tables, figures and checks as one HTML file, or as Markdown, LaTeX or JSON",
    "view": "show a catalog in a browser: runs, reports, images, SQL",
    "export": "write a run's evaluation card, verdicts, leaderboard entries and points for others",
    "sql": "query the catalog: one SELECT",
    "status": "show how far each run is, how fast, and what it costs",
    "config": "print the settings of a run, for --config",
    "compact": "merge the small files of a catalog",
    "submit": "run a verb as a job on a Ray cluster, with its log here",
    "zoo": "list RobustBench's models that can be ranked and defended, or check them",
    "bench": "measure what leasing a unit costs, how work scales, and how fast a catalog answers",
    "completion": "print a script that completes verbs and flags in your shell",
    "doctor": "check this machine: versions, GPU, disk, Ray's addresses and tokens",
}
