"""The report of one grid or cell: what it says, how it reads, where it is written.

`results` computes, `compose` orders it into a `page`, `template` is that page's style, `write` puts it
into its folder: `alpkit.analysis.analyze`.
"""
