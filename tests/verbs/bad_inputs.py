"""Bad inputs: what is typed, and a part of the line that answers. A new row is one line."""

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import nn

from tests.data.encoded import png

MODEL_FILE = """
from torch import nn

def net(channels=1, classes=10):
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)]
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), *head)

def dictionary():
    return {}

def leaves():
    raise SystemExit(3)

def fails():
    raise KeyError("gone")

VALUE = 3
"""

MANY_DIGITS = "9" * 5000
DEEP = "[" * 3000 + "]" * 3000

# Rows that every verb with a model answers alike. FILE stands for a model of net.py that works.
SHARED: list[tuple[str, str]] = [
    ("--modle demo", "unknown argument '--modle'"),
    ("--model", "expected one argument"),
    ("--model dem", "unknown model 'dem'; known forms: demo, robustbench:NAME"),
    ("--model ''", "unknown model ''"),
    ("--model net.py", "unknown model 'net.py'"),
    ("--model missing.py:net --weights grey.safetensors", "no file at missing.py"),
    ("--model net.py:nett --weights grey.safetensors", "did you mean 'net'"),
    ("--model net.py:VALUE --weights grey.safetensors", "has no factory 'VALUE'"),
    ("--model net.py:net", "needs its weights: pass --weights FILE"),
    ("--model net.py:net --weights own", "two calls of the factory give different weights"),
    ("--model net.py:leaves --weights own", "calls sys.exit or os._exit (status 3)"),
    ("--model net.py:fails --weights own", "KeyError"),
    ("--model broken.py:net --weights own", "cannot be imported: SyntaxError"),
    ("--model exits.py:net --weights own", "model file exits.py calls sys.exit or os._exit"),
    ("--model net.py:dictionary --weights grey.safetensors", "return an nn.Module, got dict"),
    ("--model net.py:net --weights not_torch.pt", "is not a whole PyTorch file"),
    ("--model-arg device=cpu", "a factory cannot have an argument of that name"),
    ("--model net.py:net --weights none.pt", "weights: no file at none.pt"),
    ("--model net.py:net --weights .", "weights: no file at ."),
    ("--model net.py:net --weights net.py", "is not a whole PyTorch file"),
    ("--model net.py:net --weights cut.safetensors", "not a whole safetensors file"),
    ("--model net.py:net --weights cut.pt", "is not a whole PyTorch file"),
    ("--model net.py:net --weights page.pt", "page.pt is a web page"),
    ("--model net.py:net --weights pointer.pt", "is a pointer of git-lfs"),
    ("--model net.py:net --weights two.pt", "holds several state dicts"),
    ("--model net.py:net --weights two.pt#ema_model", "holds no state dict 'ema_model'"),
    ("--model net.py:net --weights colour.safetensors", "0.weight should be [4, 1, 3, 3], is [4, 3, 3, 3]"),
    ("--model net.py:net --weights {long}.pt", "weights: "),
    ("FILE --model-arg depth=3", "unexpected keyword argument 'depth'"),
    ("FILE --model-arg depth", "--model-arg must be NAME=VALUE"),
    ("FILE --model-arg weights=1", "a factory cannot have an argument of that name"),
    ("FILE --model-arg spec=1", "a factory cannot have an argument of that name"),
    ("FILE --model-arg output=1", "a factory cannot have an argument of that name"),
    ("FILE --model-arg channels=2024-13-45", "--model-arg channels"),
    ("FILE --model-arg channels=2024-01-01T00:00:00+99:99", "--model-arg channels"),
    ("FILE --model-arg channels={digits}", "--model-arg channels"),
    ("FILE --model-arg channels={deep}", "--model-arg channels"),
    ("FILE --model-arg channels=2024-01-01", "a date is not taken"),
    ("FILE --model-arg channels=.nan", "--model-arg channels"),
    ("FILE --model-arg channels=-1", "RuntimeError"),
    ("--model demo --weights grey.safetensors", "the model 'demo' has its own weights and no arguments"),
    ("--model demo --model-arg width=3", "the model 'demo' has its own weights and no arguments"),
    ("--model demo --output 0", "--output 0: the model returns float32 [1, 10]"),
    ("--data digit", "did you mean 'digits'"),
    ("--data ''", "data spec must be one of digits"),
    ("--data digits:x", "write 'digits'"),
    ("--data parquet:", "names no file"),
    ("--data parquet:none.parquet", "none.parquet: expected a Parquet file, but there is none"),
    ("--data parquet:net.py", "expected a complete Parquet file"),
    ("--data parquet:empty", "expected Parquet files of the split 'test'"),
    ("--data parquet:*.nothing", "none fits this pattern"),
    ("--data parquet:null.parquet", "row 0 has no image bytes"),
    ("--data parquet:negative.parquet --n 4", "row 0 has -1"),
    ("--data parquet:{long}.parquet", "parquet"),
    ("--data folder:", "names no folder"),
    ("--data folder:nowhere", "expected a folder, but there is none"),
    ("--data folder:net.py", "expected a folder, but it is a file"),
    ("--data imagenet:nowhere", "expected a folder with train and val in it"),
    ("--data cifar10:nowhere", "expected the published cifar-10-binary.tar.gz"),
    ("--data 'hf:a b'", "must be hf:OWNER/NAME"),
    ("--data digits --label-column x", "a label column is for parquet and hf:"),
    ("--data digits --image-mode CMYK", "the image mode must be one of RGB, L, not 'CMYK'"),
    ("--data digits --image-mode RGB", "cannot take images [3, 8, 8]"),
    ("--split tset", "did you mean 'test'"),
    ("--split ../test", "split must be a plain name"),
    ("--split ''", "split must be a plain name"),
    ("--n 0", "n: input should be greater than or equal to 1, not 0"),
    ("--n -5", "n: input should be greater than or equal to 1"),
    ("--n many", "argument --n: invalid int value: 'many'"),
    ("--n 1.5", "invalid int value"),
    ("--n 541", "has 540 images, but 541 were asked for"),
    ("--n {digits}", "n"),
    ("--probe-n 0", "probe_n: input should be greater than or equal to 1"),
    ("--search-n 0", "search_n: input should be greater than or equal to 1"),
    ("--classes nothing.txt", "no file at nothing.txt"),
    ("--classes .", "no file at ."),
    ("--classes latin1.txt", "is not UTF-8 text"),
    ("--classes three.txt", "has 10 classes, but 3 names were given"),
    ("--classes twice.txt", "must all differ"),
    ("--classes {long}", "classes"),
    ("--seed -1", "seed: input should be greater than or equal to 0"),
    ("--seed 9223372036854775808", "seed: input should be less than 9223372036854775808"),
    ("--executor lcal", "invalid choice: 'lcal'"),
    ("--executor local --actors 2", "--actors is for --executor ray"),
    ("--actors 0", "actors: input should be greater than or equal to 1"),
    ("--device gpu", "invalid choice: 'gpu'"),
    ("--unit-timeout 0", "unit_timeout: input should be greater than 0"),
    ("--unit-timeout nan", "unit_timeout: input should be"),
    ("--unit-timeout inf", "unit_timeout: input should be a finite number"),
    ("--price -1", "price: input should be greater than or equal to 0"),
    ("--price nan", "price: input should be"),
    ("--catalog ''", "catalog"),
    ("--catalog thesis", "neither empty nor a catalog"),
    ("--catalog net.py", "net.py"),
    ("--catalog net.py/results", "net.py"),
    ("--catalog {long}", "catalog"),
    ("--catalog loop", "loop"),
    ("--catalog dangling", "dangling"),
    ("--catalog newer", "schema version 99"),
    ("--catalog nonsense://bucket/x", "nonsense"),
    ("--config none.yaml", "settings: no file at none.yaml"),
    ("--config .", "settings: no file at ."),
    ("--config {long}.yaml", "settings: "),
    ("--config list.yaml", "must map names to values"),
    ("--config empty.yaml", "must map names to values"),
    ("--config code.yaml", "is not plain YAML"),
    ("--config broken.yaml", "is not plain YAML"),
    ("--config binary.yaml", "is not plain YAML"),
    ("--config latin1.yaml", "is not plain YAML"),
    ("--config twice.yaml", "n is given twice"),
    ("--config misspelt.yaml", "unknown setting 'sigmaa'"),
    ("--config words.yaml", "n: input should be a valid integer"),
    ("--config fraction.yaml", "n: input should be a valid integer"),
    ("--config null.yaml", "seed: input should be a valid integer"),
    ("--config date.yaml", "is not plain YAML"),
    ("--similarity cosine", "similarity"),
]

LAYERED = ("rank", "search", "evaluate")
STUDIES = ("rank", "search", "evaluate", "train sodef")

# Rows of one verb each.
OWN: list[tuple[str, str]] = [
    ("evalute", "unknown verb 'evalute'; known: demo, rank"),
    ("evalute", "did you mean 'evaluate'"),
    ("''", "unknown verb ''"),
    ("--verbose", "unrecognized arguments: --verbose"),
    *(
        (f"{verb} --layer layr3", "no layer 'layr3'; layers that can be masked: penultimate, conv1")
        for verb in STUDIES[:3]
    ),
    # evaluate: threat model and defenses
    ("evaluate --eps 0", "eps must lie in (0, 1]"),
    ("evaluate --eps 8", "eps must lie in (0, 1]"),
    ("evaluate --eps -8/255", "eps"),
    ("evaluate --eps 8/", "expected a number such as 0.03 or a fraction such as 8/255, not '8/'"),
    ("evaluate --eps 8/0", "8/0"),
    ("evaluate --eps nan", "eps"),
    ("evaluate --eps inf", "eps"),
    ("evaluate --eps 1e-400", "eps"),
    ("evaluate --eps {digits}/255", "eps"),
    ("evaluate --norm l1", "norm must be one of linf, l2, not 'l1'"),
    ("evaluate --norm ''", "norm must be one of"),
    ("evaluate --norm l2 --eps 0.5 --defenses loir-4", "with --norm l2 give --sigma"),
    ("evaluate --defenses ,", "defenses"),
    ("evaluate --defenses ''", "defenses"),
    ("evaluate --defenses loir-", "unknown defense 'loir-'"),
    ("evaluate --defenses loir-0", "unknown defense 'loir-0'"),
    ("evaluate --defenses loir-65", "loir-65: k must lie in 1…64"),
    ("evaluate --defenses loir--5", "unknown defense 'loir--5'"),
    ("evaluate --defenses loir-5.5", "unknown defense"),
    ("evaluate --defenses loir-{digits}", "loir-9"),
    ("evaluate --defenses lior-5", "unknown defense 'lior-5'"),
    ("evaluate --defenses none,nine", "unknown defense 'nine'"),
    ("evaluate --defenses loir-4 --sigma -1", "sigma must lie in 0…"),
    ("evaluate --defenses loir-4 --sigma 1e300", "sigma must lie in 0…"),
    ("evaluate --defenses loir-4 --sigma nan", "sigma must lie in 0…"),
    ("evaluate --defenses loir-4 --sigma few", "expected a number"),
    ("evaluate --defenses loir-4 --tau 0", "tau must lie in "),
    ("evaluate --defenses loir-4 --tau -1", "tau must lie in "),
    ("evaluate --defenses loir-4 --tau 1e-320", "tau must lie in "),
    ("evaluate --defenses loir-4 --tau 1e300", "tau must lie in "),
    ("evaluate --defenses loir-4 --tau nan", "tau"),
    ("evaluate --defenses loir-4 --tau inf", "tau"),
    ("evaluate --draws 0", "draws must lie in 1…"),
    ("evaluate --draws -3", "draws must lie in 1…"),
    (f"evaluate --draws {10**30}", "draws must lie in 1…"),
    ("evaluate --draws 1.5", "invalid int value"),
    ("evaluate --draws {digits}", "draws"),
    ("evaluate --judge-draws 0", "judge_draws"),
    (f"evaluate --judge-draws {10**20}", "judge_draws"),
    ("evaluate --judge-draws 100001", "judge_draws"),
    ("evaluate --shard-size 0", "shard_size: input should be greater than or equal to 1"),
    (f"evaluate --shard-size {10**20}", "shard_size"),
    ("evaluate --attack-seed -1", "attack_seed"),
    ("evaluate --attack-seed 9223372036854775808", "attack_seed"),
    ("evaluate --mode fast", "invalid choice: 'fast'"),
    ("evaluate --save-points some", "invalid choice: 'some'"),
    ("evaluate --ranking 0123 --defenses loir-8", "has no '0123' in rankings"),
    ("evaluate --ranking ../x --defenses loir-8", "'../x'"),
    ("evaluate --from-search 0123", "has no '0123' in "),
    ("evaluate --signed", "--signed is an option of loir rankings, which no defense of the run uses; add loir-K"),
    ("evaluate --defenses none,cdir-8 --every-class", "--every-class is an option of loir rankings"),
    ("evaluate --defenses confidence-8 --clip demo", "--clip is an option of cdir rankings"),
    ("evaluate --defenses random-8 --prompts names.txt", "add cdir-K to --defenses, or leave it out"),
    ("evaluate --defenses cdir-8 --clip nothing", "CLIP must be 'demo'"),
    ("evaluate --defenses cdir-8 --clip nothing.json", "cannot read the CLIP config"),
    ("evaluate --defenses cdir-8 --prompts nothing.txt", "no file at nothing.txt"),
    ("evaluate --defenses cdir-8 --prompts three.txt", "prompt"),
    ("evaluate --defenses cdir-8 --prompt-template word", "{}"),
    ("evaluate --attacks ,", "attacks"),
    ("evaluate --attacks autoatack", "unknown attack 'autoatack'"),
    ("evaluate --attacks aa-0", "aa-0"),
    ("evaluate --attacks apgd-ce-0", "apgd-ce-0"),
    ("evaluate --attacks apgd-ce-x", "apgd-ce-x"),
    ("evaluate --attacks apgd-ce-{digits}", "apgd-ce"),
    ("evaluate --attacks rays-99999999999", "rays-99999999999"),
    ("evaluate --attacks rays --norm l2 --eps 0.5", "rays"),
    ("evaluate --defense-arg hedge.steps", "--defense-arg must be NAME=VALUE"),
    ("evaluate --defense-arg steps=3", "steps"),
    ("evaluate --defense-arg hedge.stepz=3 --defenses hedge", "stepz"),
    ("evaluate --defense-arg hedge.steps=3", "no defense of the run takes it; add hedge"),
    ("evaluate --defense-arg hedge.steps=-1 --defenses hedge", "steps"),
    ("evaluate --defense-arg hedge.steps=1e300 --defenses hedge", "steps"),
    ("evaluate --defense-arg hedge.steps=2024-13-45 --defenses hedge", "hedge.steps"),
    ("evaluate --defense-arg hedge.steps={digits} --defenses hedge", "hedge.steps"),
    ("evaluate --defense-arg hedge.steps={deep} --defenses hedge", "hedge.steps"),
    ("evaluate --defense-arg hedge.steps=.nan --defenses hedge", "steps"),
    ("evaluate --defense-arg confidence.threshold=2 --defenses confidence-4", "threshold"),
    ("evaluate --tau 0.1 --from-search 0123", "a search has chosen σ, τ and draws; leave --tau out"),
    ("evaluate extra", "unknown argument 'extra'"),
    ("evaluate --model robustbench:Wong2020Fst", "did you mean 'Wong2020Fast'"),
    ("evaluate --model robustbench:a/b", "must be NAME or DATASET/THREAT/NAME"),
    ("evaluate --model timm:resnet1", "did you mean"),
    ("evaluate --model timm:resnet18 --model-arg name=x", "does not take these arguments"),
    ("evaluate --model robustbench:Wong2020Fast --weights none.pt", "weights: no file at none.pt"),
    ("evaluate FILE --model-arg classes=7 --weights seven.safetensors", "has 7 classes, the data 10"),
    ("evaluate --weights colour.safetensors --model net.py:net --model-arg channels=3", "cannot take images [1, 8, 8]"),
    # rank
    ("rank --method loire", "method must be one of cdir, loir, random"),
    ("rank --method ,", "method"),
    ("rank --method cdir --clip ViT-B-61/openai", "did you mean"),
    ("rank --method cdir --clip demo --clip-weights x", "the CLIP 'demo' brings its weights along"),
    ("rank --method cdir --probe-n 99", "top 100 images, but the probe set has 99"),
    ("rank --method random --signed", "--signed is an option of loir rankings"),
    ("rank --probe-n 5", "the probe set has no image of 5 of 10 classes"),
    ("rank --probe-n 1258", "1258"),
    ("rank --import-from nowhere", "--import-from needs --method"),
    ("rank --import-from nowhere --method loir", "nowhere"),
    ("rank --import-from nowhere --method loir,cdir", "--import-from is one ranking"),
    ("rank --import-from empty --method loir", "empty"),
    # search
    ("search --search-split test", "both come from the split 'test'"),
    ("search --search-split nowhere", "split of 'digits' must be one of train, test"),
    ("search --ks 9:3", "ks must be LOW:HIGH with LOW ≤ HIGH, or numbers with commas, not '9:3'"),
    ("search --ks few", "ks must be LOW:HIGH"),
    ("search --ks ''", "ks must be LOW:HIGH"),
    ("search --ks 1:{digits}", "ks"),
    ("search --ks 60:65", "k must lie in 1…64, the neurons of 'penultimate', not 65"),
    (f"search --ks 1:{10**12}", "k must lie in 1…64"),
    ("search --ks 0:3", "k must lie in 1…64, the neurons of 'penultimate', not 0"),
    ("search --sigmas ,", "--sigmas names nothing to try"),
    ("search --sigmas 0.5,-1", "sigmas must lie in 0…"),
    ("search --sigmas 1e300", "sigmas must lie in 0…"),
    ("search --sigmas nan", "sigmas must lie in 0…"),
    ("search --sigmas 1 --sigma 0.1", "give --sigma or --sigmas, not both"),
    ("search --sigmas 1 --norm l2", "are multiples of an infinity-norm eps; with --norm l2 give"),
    ("search --taus 0", "taus must lie in "),
    ("search --taus 1e-320", "taus must lie in "),
    ("search --taus 1:0.1:4", "a logarithmic grid is LOW:HIGH:COUNT with 0 < LOW < HIGH"),
    ("search --taus 0.1:1:300000000", "a logarithmic grid is LOW:HIGH:COUNT"),
    ("search --taus 0.1:1:{digits}", "a logarithmic grid is LOW:HIGH:COUNT"),
    ("search --taus 0.1:inf:4", "a logarithmic grid is LOW:HIGH:COUNT"),
    ("search --taus nan", "taus must lie in "),
    ("search --taus 0.1,few", "taus"),
    ("search --draw-counts 0", "draw counts must lie in 1…"),
    (f"search --draw-counts {10**20}", "draw counts must lie in 1…"),
    ("search --draw-counts few", "draw_counts"),
    ("search --draw-counts ,", "--draw-counts names nothing to try"),
    ("search --trials 5", "--trials is for --sampler random and optuna; bisection knows"),
    ("search --sampler random --trials 0", "trials: input should be greater than or equal to 1"),
    (f"search --sampler random --trials {10**20}", "trials"),
    ("search --sampler fast", "invalid choice: 'fast'"),
    ("search --refine -1", "refine: input should be greater than or equal to 0"),
    ("search --refine-n 5", "--refine-n is for --refine"),
    ("search --refine 1 --refine-n 0", "refine_n: input should be greater than or equal to 1"),
    ("search --k-mode per-class --sampler grid", "--k-mode per-class is for --sampler bisection"),
    ("search --k-mode per-class --search-n 3", "a k for each class needs search images of every"),
    ("search --ranking 0123", "has no '0123' in rankings"),
    ("search --ranking 0123 --method cdir", "give --ranking or --method, not both"),
    ("search --tolerance 2", "tolerance: input should be less than or equal to 1"),
    ("search --tolerance -0.1", "tolerance: input should be greater than or equal to 0"),
    ("search --tolerance nan", "tolerance"),
    ("search --tolerance few", "expected a number"),
    ("search --probe-n 1000 --search-n 1000", "probe and 1000 search images share"),
    # evaluate --gate
    ("evaluate --gate gain", '--gate must be "[DEFENSE:] METRIC >= NUMBER"'),
    ("evaluate --gate 'gain > 0'", "--gate must be"),
    ("evaluate --gate 'gain >= '", "--gate must be"),
    ("evaluate --gate 'gains >= 0'", "METRIC is one of gain, worst_case, clean; did you mean 'gain'"),
    ("evaluate --gate 'gain >= few'", "must be a fraction in [-1, 1], not 'few'"),
    ("evaluate --gate 'gain >= nan'", "must be a fraction in [-1, 1], not 'nan'"),
    ("evaluate --gate 'worst_case >= 30'", "must be a fraction in [0, 1], not '30'"),
    ("evaluate --gate 'worst_case >= -0.1'", "must be a fraction in [0, 1], not '-0.1'"),
    ("evaluate --gate 'gain >= 0'", "the undefended model has no gain over itself"),
    ("evaluate --gate 'lior-8: gain >= 0'", "the run has no defense 'lior-8'; it has none"),
    ("evaluate --defenses hedge --gate 'gain >= 0'", "a gain is over the undefended model; add none to --defenses"),
    ("evaluate --junit junit.xml", "--junit is for the verdicts of --gate"),
    ("evaluate --gate 'clean >= 0' --junit nowhere/junit.xml", "not a file in a folder that exists"),
    # train
    ("train", "the following arguments are required: trained"),
    ("train hedge", "invalid choice: 'hedge'"),
    ("train sodef --layer layer3", "its layer is penultimate, not 'layer3'"),
    ("train sodef --defense-arg hedge.steps=3", "sodef does not take it"),
    ("train sodef --defense-arg sodef.steps=0", "steps"),
    ("train sodef --defense-arg sodef.dimensions={digits}", "sodef.dimensions"),
    ("train sodef --defense-arg sodef.time=-1", "time"),
    ("train sodef --defense-arg sodef.nothing=1", "nothing"),
    # demo
    ("demo --n 0", "n: input should be greater than or equal to 1"),
    ("demo --n 541", "540"),
    ("demo --seed -1", "seed"),
    ("demo --executor local --actors 2", "--actors is for --executor ray"),
    ("demo --catalog thesis", "neither empty nor a catalog"),
    ("demo --model demo", "unknown argument '--model'"),
    # what reads a catalog
    *(
        (f"{verb} --catalog nowhere", "no catalog at nowhere")
        for verb in ("report", "export", "status", "verify", "compact", "sql 'SELECT 1'")
    ),
    *(
        (f"{verb} --catalog net.py", "net.py")
        for verb in ("report", "export", "status", "verify", "compact", "sql 'SELECT 1'")
    ),
    *(
        (f"{verb} --catalog newer", "schema version 99")
        for verb in ("report", "export", "status", "verify", "compact", "sql 'SELECT 1'")
    ),
    *(
        (f"{verb} --catalog {{long}}", "")
        for verb in ("report", "export", "status", "verify", "compact", "sql 'SELECT 1'")
    ),
    *(
        (f"{verb} --catalog loop", "loop")
        for verb in ("report", "export", "status", "verify", "compact", "sql 'SELECT 1'")
    ),
    *(
        (f"{verb} --catalog dangling", "dangling")
        for verb in ("report", "export", "status", "verify", "compact", "sql 'SELECT 1'")
    ),
    *((f"{verb} --catalog ''", "") for verb in ("report", "export", "status", "verify", "compact", "sql 'SELECT 1'")),
    *(
        (f"{verb} --nothing", "unknown argument '--nothing'")
        for verb in ("report", "export", "status", "verify", "compact", "sql", "bench scaling", "zoo", "doctor")
    ),
    ("sql", "give one statement"),
    # where units run: found before the run is recorded
    ("RAY_ADDRESS=127.0.0.1:9 evaluate --n 1 --attacks clean", "no Ray cluster answers there"),
    ("RAY_ADDRESS=nowhere.invalid:6379 rank", "no Ray cluster answers there"),
    ("RAY_ADDRESS=127.0.0.1:99999 search", "no Ray cluster answers there"),
    ("RAY_ADDRESS=nonsense rank", "RAY_ADDRESS must be HOST:PORT of a cluster, not 'nonsense'"),
    ("RAY_ADDRESS=http://127.0.0.1:8265 rank", "for `ray job submit` set RAY_API_SERVER_ADDRESS"),
    ("RAY_ADDRESS=ray://127.0.0.1:9 train sodef", "no Ray cluster answers there"),
    ("evaluate --n 1 --attacks clean --device cuda", "--device cuda: PyTorch sees no GPU here"),
    ("rank --executor local --device cuda", "--device cuda: PyTorch sees no GPU here"),
    ("search --executor local --device cuda", "--device cuda: PyTorch sees no GPU here"),
    ("train sodef --executor local --device cuda", "--device cuda: PyTorch sees no GPU here"),
    ("bench", "the following arguments are required: what"),
    ("bench nothing", "invalid choice: 'nothing'"),
    ("bench catalog --runs 0", "--runs must be at least 1, not 0"),
    ("bench catalog --n 0", "--n must be at least 1, not 0"),
    ("bench catalog --rounds 0", "--rounds must be at least 1, not 0"),
    ("bench catalog --model demo", "takes --n, --runs, --rounds and --json, not --model"),
    ("bench start --n 4", "takes --rounds and --json, not --n"),
    ("bench ranking --runs 2", "--runs does not belong to bench ranking"),
    ("bench search --attacks aa", "--attacks does not belong to bench search"),
    ("bench iwwc --runs 2", "--runs does not belong to bench iwwc"),
    ("bench ranking --rounds 0", "--rounds must be at least 1, not 0"),
    ("bench iwwc --attacks nothing", "unknown attack 'nothing'"),
    ("submit", "igd submit takes one of rank, train"),
    ("submit nothing", "nothing"),
]


def write_files(folder: Path) -> None:
    """Write what the rows name."""
    scope: dict[str, object] = {}
    exec(MODEL_FILE, scope)
    net = scope["net"]
    texts = {
        "net.py": MODEL_FILE,
        "broken.py": "def net(:\n",
        "exits.py": "import sys\nsys.exit(1)\n",
        "page.pt": "<!DOCTYPE html><html>Too many users have viewed this file</html>",
        "pointer.pt": "version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "three.txt": "a\nb\nc\n",
        "twice.txt": "\n".join("abcdefghia"),
        "list.yaml": "- 1\n",
        "empty.yaml": "",
        "code.yaml": "model: !!python/object/apply:os.system ['touch ran']\n",
        "broken.yaml": "n: [1, 2\n",
        "twice.yaml": "n: 3\nseed: 1\nn: 4\n",
        "misspelt.yaml": "sigmaa: 0.1\n",
        "words.yaml": "n: many\n",
        "fraction.yaml": "n: 1.5\n",
        "null.yaml": "seed: null\n",
        "date.yaml": "n: 2024-13-45\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in ("latin1.txt", "latin1.yaml"):
        (folder / name).write_bytes(b"classes: caf\xe9\n")
    with zipfile.ZipFile(folder / "not_torch.pt", "w") as archive:
        archive.writestr("hello", "world")
    (folder / "binary.yaml").write_bytes(bytes(range(256)))
    for name in ("empty", "thesis", "newer"):
        (folder / name).mkdir()
    (folder / "thesis/chapter.tex").write_text("x")
    (folder / "newer/catalog.json").write_text('{"schema_version": 99}')
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to(folder / "gone" / "away")
    assert callable(net)
    states: dict[str, nn.Module] = {"grey": net(), "colour": net(channels=3), "seven": net(classes=7)}
    for name, model in states.items():
        save_file(model.state_dict(), folder / f"{name}.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "grey.safetensors").read_bytes()[:-40])
    torch.save(net().state_dict(), folder / "whole.pt")
    (folder / "cut.pt").write_bytes((folder / "whole.pt").read_bytes()[:-60])
    torch.save({"state_dict": net().state_dict(), "model_ema": net().state_dict()}, folder / "two.pt")
    image = {"bytes": png(np.zeros((8, 8), np.uint8)), "path": None}
    pq.write_table(pa.table({"image": [None, image], "label": [0, 1]}), folder / "null.parquet")
    pq.write_table(pa.table({"image": [image] * 4, "label": [-1, 0, 1, 2]}), folder / "negative.parquet")
