"""What people read: the HTML report and the tables on the terminal, both from the catalog only."""

from igd_ray.report.html import write_report
from igd_ray.report.terminal import print_table

__all__ = ["print_table", "write_report"]
