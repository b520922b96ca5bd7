"""The report of a run: one HTML file that needs nothing from outside, no script included.

Every section is always there; one that has nothing to show says so.
"""

from __future__ import annotations

from markupsafe import Markup

from ts4s_core.evaluation.report.data import ReportData
from ts4s_core.evaluation.report.page import page


def render(data: ReportData) -> str:
    """The whole report as one HTML document."""
    from ts4s_core.evaluation.report import data_sections as of_data
    from ts4s_core.evaluation.report import model_sections as of_model

    sections: list[tuple[str, str, Markup]] = [
        ("summary", "Summary", of_model.summary(data)),
        ("champion", "Comparison with the champion", of_model.champion(data)),
        ("lineage", "What was trained on what", of_data.lineage(data)),
        ("data", "Data card", of_data.card(data)),
        ("training", "Training", of_data.training(data)),
        ("steps", "Time per step of the flow", of_data.steps(data)),
        ("classes", "Per class", of_model.classes(data)),
        ("confusion", "Confusion matrix", of_model.confusion(data)),
        ("calibration", "Calibration", of_model.calibration(data)),
        ("mistakes", "Most confident mistakes", of_model.mistakes(data)),
        ("settings", "Settings", of_data.settings(data)),
    ]
    return page(data.name, data.trained, data.created, sections)
