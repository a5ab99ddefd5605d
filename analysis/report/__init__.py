"""Write the report of one grid or cell: an HTML page, tables and figures.

`results` computes, `compose` orders it into a `page`, `template` is that page's style, `write` puts it
into its folder: `alpkit.analysis.analyze`.
"""
