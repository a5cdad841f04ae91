"""Commands of `igd`, one file per verb."""

# One module per verb in this folder; imported when asked for, so that `igd sql` does not wait for PyTorch.
VERBS = {
    "demo": "rank, search, attack and report on the embedded model, in minutes",
    "rank": "rank a layer's neurons for every class",
    "train": "train what a defense needs: SODEF's ODE block",
    "search": "find the smallest k that keeps clean accuracy, by bisection",
    "evaluate": "attack defenses and reduce to the image-wise worst case",
    "analyze": "show what stands behind the accuracies: classes, settings, neurons, loss surfaces, cost",
    "reproduce": "make a table or figure of the paper again, beside the paper's own numbers",
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


# Two commands of each verb.
EXAMPLES = {
    "demo": ("igd demo", "igd demo --executor local --n 16 --catalog results-small"),
    "rank": (
        "igd rank --method loir,cdir",
        "igd rank --model net.py:factory --weights net.safetensors --data 'parquet:{split}.parquet' --classes cifar10",
    ),
    "train": ("igd train sodef", "igd train sodef --defense-arg sodef.steps=200"),
    "search": ("igd search --tolerance 0.01", "igd search --sigmas 0.5,1 --taus 0.001:1:4 --refine 2"),
    "evaluate": (
        "igd evaluate --defenses none,loir-8 --attacks iwwc,audit --mode cascade --dry-run",
        'igd evaluate --model net.py:factory --weights net.safetensors --attacks aa --gate "worst_case >= 0.3"',
    ),
    "analyze": (
        "igd analyze overlap --defenses loir-8,cdir-8",
        "igd analyze sensitivity --defenses none,loir-8 --vary k=4,8,16 --vary sigma=0,0.05 --figure heat.svg",
    ),
    "reproduce": ("igd reproduce table1 --scale small", "igd reproduce fig8 --scale small --figure fig8.svg"),
    "check": ("igd check mine.py:factory", "igd check mine=mine.py:factory --defense-arg mine.levels=8"),
    "new": ("igd new defense mine", "igd new defense rounding && igd check rounding.py:factory"),
    "verify": ("igd verify --sample 16", "igd verify --points aa.pth --model robustbench:Wong2020Fast --data cifar10"),
    "report": ("igd report", "igd report --run-id 0123456789ab --output paper/report.html"),
    "view": ("igd view", "igd view --catalog results-worst-case --port 8000"),
    "export": ("igd export", "igd export 0123456789ab --to paper/records --points paper/points"),
    "sql": ('igd sql "SELECT * FROM worst_case"', "igd sql --file table8 --format csv --output table8.csv"),
    "status": ("igd status", "igd status --catalog s3://BUCKET/results --json"),
    "config": ("igd config show", "igd config show 0123456789ab > again.yaml"),
    "compact": ("igd compact", "igd compact --catalog results-worst-case"),
    "submit": (
        "igd submit evaluate --defenses none,loir-8 --catalog /shared/results",
        "igd submit --address http://127.0.0.1:8265 report --catalog /shared/results --output /shared/report.html",
    ),
    "zoo": ("igd zoo cifar10/Linf", "igd zoo --check 'cifar100/*_RN18'"),
    "bench": ("igd bench dispatch", "igd bench scaling --actors 4"),
    "completion": ("igd completion bash", "igd completion zsh"),
    "doctor": ("igd doctor", "igd doctor --json"),
}
