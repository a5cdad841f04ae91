"""Sessions of new workspaces, in this process by default."""

from igd_ray.config import WorkspaceSettings
from igd_ray.execution.executor import in_process
from igd_ray.execution.session import ExecutorFactory, Session
from igd_ray.planning.workspace import Workspace


def session_for(settings: WorkspaceSettings, executor: ExecutorFactory | None = None) -> Session:
    return Session(Workspace(settings), executor or in_process("auto"))
