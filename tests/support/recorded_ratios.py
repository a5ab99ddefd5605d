"""Log ratios of a grid's records, the slow way: every token in one pandas frame."""


def ratios(frame, arm, *, numerator="logp_train"):
    """Every finished token of an arm, and its responses, with their prompts."""
    cells = set(frame.finished["cell_id"])
    tokens = frame.records.tokens(arm=arm, cells=cells)
    tokens["log_mu"] = tokens["logp_rollout"].astype(float)
    tokens["log_ratio"] = tokens[numerator].astype(float) - tokens["log_mu"]
    tokens["cluster"] = tokens.groupby(["seed", "step", "prompt"], sort=False).ngroup()
    responses = tokens.groupby(["seed", "step", "sample"], sort=False).agg(
        log_ratio=("log_ratio", "sum"), log_mu=("log_mu", "mean"), cluster=("cluster", "first")
    )
    keep = ["log_ratio", "log_mu", "cluster"]
    return {"token": tokens[keep], "product": responses.reset_index()[keep]}
