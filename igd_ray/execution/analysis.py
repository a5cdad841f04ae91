"""Runs an analysis: its rankings and trainings, then its units."""

from igd_ray.execution.session import RunSummary, Session, commit_run
from igd_ray.planning.analyses import AnalysisPlan


def run_analysis(session: Session, plan: AnalysisPlan) -> RunSummary:
    """Run the units of `plan` that the catalog lacks; what it consists of is committed before, so that it shows."""
    session.prepare([*plan.first_units, *plan.units])
    commit_run(session.workspace, run_id=plan.run_id, verb="analyze", units=plan.rows(), notes=plan.notes)
    for ranking in plan.rankings:
        if ranking.stored_id is None:
            session.rank(ranking)
    if plan.needed.training is not None:
        session.train(plan.needed.training)
    return session.run(plan.units, f"analyze {plan.analysis}")
