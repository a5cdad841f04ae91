"""The keys of a fixed plan: every defense and attack label, every kind of unit, on the embedded model."""

from pathlib import Path

from igd_ray.config import EvaluateSettings, SearchSettings, load_settings
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.planning.rankings import plan_ranking
from igd_ray.planning.refinement import most_refinement
from igd_ray.planning.search import plan_search
from igd_ray.planning.workspace import Workspace
from igd_ray.units.base import Unit

DEFENSES = "none,loir-8,cdir-8,random-8,random-drop-8,confidence-8,two-pass,smoothing-only,hedge,anti-adversary,sodef"
SMALL = {"n": 8, "shard_size": 8, "probe_n": 200, "search_n": 100}
KEY_DIGITS = 12

ATTACKS = (
    "clean,aa,aa-rand,aa-strong,apgd-eot,fgsm,apgd-ce,apgd-cw,apgd-dlr,apgd-t,fab-t,square,rays,pgd,tr-aa,tr-aa-strong,"
    "tr-fgsm,tr-apgd-ce,tr-apgd-cw,tr-apgd-dlr,tr-apgd-t,tr-fab-t,tr-square,tr-rays,tr-pgd,tr-apgd-eot,tr-apgd-t-dlr,"
    "audit-transfer-start,audit-joint-loss,audit-oracle-mask,audit-detached-mask,audit-identity-mask,audit-line,"
    "audit-square-eot,audit-best-start"
)

# A defense in a file, whose text is part of its keys. It stops gradients, which audit-bpda is for.
JPEG = Path(__file__).parents[1] / "toys" / "own_defenses" / "jpeg.py"

EVALUATIONS: dict[str, dict[str, object]] = {
    "full": {"defenses": DEFENSES, "attacks": f"{ATTACKS},apgd-ce-5,audit"},
    "cascade": {"defenses": "none,loir-8,hedge", "attacks": "iwwc,audit", "mode": "cascade", "save_points": "broken"},
    "shards": {"defenses": "none,loir-8", "attacks": "aa,tr-aa,audit", "shard_size": 5, "judge_draws": 3},
    "own": {"defenses": f"none,jpeg={JPEG}:factory", "attacks": "apgd-ce-5,tr-apgd-ce-5,audit-bpda"},
    "audit of few": {"defenses": "none,loir-8", "attacks": "square-20,tr-apgd-ce-5,audit-line,audit-best-start"},
    "fast": {"defenses": "none,loir-8", "attacks": "aa-fast,tr-aa-fast"},
    "pooled": {"defenses": "none,loir-8", "attacks": "aa,tr-aa,apgd-ce-5,square-20", "engine": "pooled"},
    "guided": {"defenses": "none,loir-8", "attacks": "gama-pgd,tr-gama-pgd"},
    "changed": {
        "defenses": "none,loir-8,confidence-8,hedge,sodef",
        "attacks": "aa,tr-apgd-ce,audit-joint-loss",
        "seed": 3,
        "attack_seed": 7,
        "eps": "4/255",
        "sigma": "2/255",
        "tau": 0.1,
        "draws": 2,
        "layer": "layer3",
        "defense_arg": {"hedge.steps": 3, "confidence.threshold": 0.5, "sodef.steps": 5},
    },
}

SEARCHES: dict[str, dict[str, object]] = {
    "bisection": {"method": "loir,cdir,random"},
    "grid": {"method": "loir", "sigmas": "0,0.5", "taus": "0.01,1", "draw_counts": "1,2", "ks": "2:9", "refine": 2},
    "per class": {"method": "loir", "layer": "layer3", "k_mode": "per-class", "signed": True},
}


def planned_keys(catalog: Path) -> dict[str, str]:
    """The first digits of every key, run id, ranking id and search id, by what it is of."""
    keys: dict[str, str] = {}
    for name, changes in EVALUATIONS.items():
        settings = load_settings(EvaluateSettings, file=None, given={**SMALL, "catalog": str(catalog), **changes})
        workspace = Workspace(settings)
        plan = plan_evaluation(workspace)
        keys[f"{name} / run"] = plan.run_id
        for defense in plan.needed.defenses:
            keys[f"{name} / defense {defense.label}"] = defense.defense_id[:KEY_DIGITS]
        for method, ranking in plan.needed.rankings.items():
            keys[f"{name} / ranking {method}"] = ranking.ranking_id
        labelled = {unit.key: unit for unit in [*plan.units, *plan.needed.units]}
        for row in plan.rows():
            unit = labelled[str(row["unit_key"])]
            _add(keys, f"{name} / {row['defense']} / {row['attack']}", unit)
    for name, changes in SEARCHES.items():
        given = {"probe_n": 200, "search_n": 100, "catalog": str(catalog), **changes}
        search = load_settings(SearchSettings, file=None, given=given)
        workspace = Workspace(search)
        for method in search.methods:
            ranking = plan_ranking(workspace, method)
            found = plan_search(workspace, ranking)
            keys[f"{name} / {method} / search"] = found.search_id
            keys[f"{name} / {method} / ranking"] = ranking.ranking_id
            for unit in [*ranking.units, *found.units, *most_refinement(workspace, found)]:
                _add(keys, f"{name} / {method}", unit)
    return keys


def _add(keys: dict[str, str], what: str, unit: Unit) -> None:
    same = sum(each.startswith(f"{what} / {unit.kind} ") for each in keys)
    keys[f"{what} / {unit.kind} {same}"] = unit.key[:KEY_DIGITS]
