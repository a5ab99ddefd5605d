"""Writes a report's tables and figures into its folder, in every format."""

import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib

from alpkit.analysis import style
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.page import Block, Picture, Text
from alpkit.analysis.plans import Plan
from alpkit.analysis.tables import Table


@dataclass(frozen=True)
class Draft:
    """Writes every table and figure of a report into its folder, in every format."""

    folder: Path

    def add(self, table: Table) -> Table:
        """CSV, Markdown and LaTeX of a table."""
        table.data.to_csv(self.folder / f"{table.name}.csv", index=False)
        text = f"# {table.title}\n\n{table.caption}\n\n{table.markdown()}"
        (self.folder / f"{table.name}.md").write_text(text, encoding="utf-8")
        (self.folder / f"{table.name}.tex").write_text(table.latex(), encoding="utf-8")
        return table

    def draw(self, plan: Plan, frame: GridFrame) -> Block:
        """PNG, SVG and CSV of a figure; words instead where there is nothing to draw."""
        data = plan.data(frame)
        if data.empty:
            return Text(f"{plan.title}: not drawn, {plan.absent}")
        data.to_csv(self.folder / f"{plan.name}.csv", index=False)
        memory = io.BytesIO()
        with style.context():
            figure = plan.sheet(data, style.looks(frame.cells))
            # Once, and not at every save: finding the layout costs as much as drawing.
            figure.get_layout_engine().execute(figure)
            # A figure with any engine is drawn twice per save, and a save brings the style's back.
            with matplotlib.rc_context({"figure.constrained_layout.use": False}):
                figure.set_layout_engine(None)
                figure.savefig(memory, format="png")
                # Without a date the same data gives the same file.
                figure.savefig(self.folder / f"{plan.name}.svg", metadata={"Date": None})
        (self.folder / f"{plan.name}.png").write_bytes(memory.getvalue())
        alt = plan.alt(frame, data)
        return Picture(plan.name, plan.title, alt, plan.caption, memory.getvalue())
