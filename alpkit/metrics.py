"""The one list of metric keys: what a run may log, in which unit, how it is computed and read.

A key is `area/quantity[/stat]`. The list is closed: `check_keys` refuses anything else, so that two
definitions can never share a name. Not here: the numbers (`alpkit.diagnostics`) and where they go
(`alpkit.tracking`). `python -m alpkit.metrics` prints docs/metrics.md.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Final, NamedTuple

from alpkit.errors import TrackingError, did_you_mean

WATCHED: Final[Mapping[str, str]] = {"kl/k3": "kl", "kl/k3_max": "kl", "train/grad_norm": "train"}
"""Metrics that are watched for spikes -> area of their `spike` and `spike_z` metrics."""
WINDOW: Final = 10
"""Steps at the end of a run that a score averages over."""
EVALUATIONS: Final = 3
"""Evaluations that a score averages over when fewer fall into the last `WINDOW` steps."""


def scored(steps: Sequence[int], last: int, *, at_least: int = 0) -> list[int]:
    """Select the steps whose mean is the run's score, among those that logged a value; never the last alone.

    These are the ones among the last `WINDOW` steps of a run of `last`; where fewer than `at_least` fall
    there, the last `at_least` of all. Step 0 is the evaluation before training and no score of the run.
    `steps` ascend.
    """
    trained = [step for step in steps if step > 0]
    recent = [step for step in trained if step > last - WINDOW]
    return recent if len(recent) >= at_least else trained[-at_least:]


class Metric(NamedTuple):
    """One metric key, or the template of a family: its unit, its definition, and how to read it."""

    key: str
    unit: str
    definition: str
    reading: str


# fmt: off
_PLAIN = (
    Metric("reward/mean", "reward",
        "Mean reward of the step's responses (of the first draw, where groups were refilled), each counted once, as "
        "they are trained with: 0 for what overlong: zero_reward took.",
        "The training curve. Compare means over the last 10 steps, never single steps."),
    Metric("reward/std", "reward",
        "Population standard deviation of the reward over the step's responses.",
        "Near 0: nothing to learn from in this batch."),
    Metric("reward/solved_all", "share",
        "Groups in which every response earned the full reward / all groups.",
        "These groups have zero advantage. Rising towards 1: the task is too easy."),
    Metric("reward/solved_none", "share",
        "Groups in which no response earned a positive reward / all groups.",
        "These groups have zero advantage. Near 1 for long: the task is too hard."),
    Metric("response/length_mean", "tokens",
        "Mean number of response tokens; each response counts once.",
        "Product ratios widen with length: read ratio/*/product beside it."),
    Metric("response/length_max", "tokens",
        "Longest response of the step.",
        "At rollout.max_tokens unless every response finished."),
    Metric("response/finished", "share",
        "Responses that ended with the end token / all responses.",
        "A fall means truncation, which rewards and lengths alone do not show."),
    *(
        Metric(f"turns/{name}", unit, f"{definition} Only with an environment.", reading)
        for name, unit, definition, reading in (
            ("mean", "turns", "Mean number of the model's turns in a response.",
                "Falling towards 1: the policy answers without the tool."),
            ("max", "turns", "Most turns of a response of the step.", "At most environment.turns."),
            ("void", "share", "Responses with a void turn / all responses.",
                "With environment.void: mask they train nothing; rising: the policy loses the format."),
            ("answered", "share", "Responses that the environment says ended with an answer / all responses.",
                "The rest ran out of turns or tokens, or are void."),
            ("inserted", "tokens", "Mean number of a response's tokens that the environment put in.",
                "In no loss, ratio or statistic; they use up rollout.max_tokens."),
            ("reward", "reward", "Mean over responses of the sum of the turns' own rewards.",
                "Part of reward/mean; the rest is the task's."),
        )
    ),
    *(
        Metric(f"tool/{name}", unit, f"{definition} Only with an environment.", reading)
        for name, unit, definition, reading in (
            ("calls", "calls", "Tool calls / all responses.", "0: the tool is not used."),
            ("failed", "share", "Tool calls that ended in an error of their own / all calls. Absent without calls.",
                "Falls as the policy learns to write code that runs."),
            ("stopped", "share", "Tool calls stopped at a limit of the sandbox / all calls. Absent without calls.",
                "Near 0; rising: look at the code, something is being tried."),
        )
    ),
    Metric("train/loss", "loss",
        "Mean over the step's updates of the objective's value.",
        "Not a progress measure: its zero moves with the advantages. Look for jumps."),
    Metric("train/grad_norm", "norm",
        "Mean over the step's updates of the joint gradient norm before clipping.",
        "Compare with train.grad_clip; spikes that follow kl/k3 are the off-policy signature."),
    Metric("train/grad_norm_max", "norm",
        "Largest joint gradient norm, before clipping, of the step's updates.",
        "One bad mini-batch shows here and not in the mean."),
    Metric("train/reference_kl", "nats",
        "Mean of the reference_kl estimator over valid tokens, ratio's numerator against the starting policy.",
        "How far training has gone; only where objective.reference_kl.coef is above 0."),
    Metric("train/entropy", "nats",
        "Mean entropy of the unperturbed next-token distribution; each valid token counts once.",
        "A fall towards 0 is collapse; exploration stops before reward does."),
    Metric("train/entropy_bonus", "loss",
        "Mean over valid tokens of objective.entropy_bonus times the entropy of the policy whose log-probs are the "
        "ratio's numerator; only where the bonus is above 0.",
        "What the bonus takes off a token-mean loss. Over the weight, beside train/entropy: what the noise adds."),
    Metric("train/lr", "1",
        "Learning rate of the policy at the step's last update, schedule included.",
        "Constant without a schedule or a warm-up; compare arms at equal rates."),
    Metric("train/skipped_updates", "count",
        "Updates of the step that were not applied (no surviving token, or a non-finite gradient).",
        "0 in a healthy run; under dtype: float16 a few, see train/overflows."),
    Metric("train/loss_scale", "1",
        "Factor on the loss during the backward at the end of the step; dtype: float16 only.",
        "Halves at an overflow, doubles after 2000 updates without one. Falling on and on: the gradient "
        "itself is not finite."),
    Metric("train/overflows", "count",
        "Updates of the step that were skipped because the scaled gradient was not finite; dtype: float16 only.",
        "A few in the first steps, while the scale is found, then about one in 2000 updates."),
    Metric("eval/greedy", "share",
        "Held-out items solved by greedy decoding / all items.",
        "The steadiest score; deterministic for given weights."),
    Metric("eval/avg_at_k", "share",
        "Mean over items of the share of k sampled responses that solve the item.",
        "What sampling at the training temperature achieves."),
    Metric("eval/pass_at_k", "share",
        "Mean over items of 1 when any of the k sampled responses solves it, else 0.",
        "Above avg_at_k by the diversity that is left; falls when exploration is lost."),
    *(
        Metric(f"{area}/{name}", "count",
            f"Responses of the {what} whose check {definition}, scored 0. Only where a check can.", reading)
        for area, what in (("grading", "step's rollout"), ("eval", "evaluation, all sets together"))
        for name, definition, reading in (
            ("timeouts", "was killed at its deadline",
                "0 in a healthy run; a policy can learn answers that no algebra system comes to an end with."),
            ("failures", "broke down (out of memory, a fault in a parser)",
                "0; a few are answers that no parser was made for."),
        )
    ),
    Metric("kl/k1", "nats",
        "Mean of -d, d = log pi_theta - log mu unperturbed; each valid token counts once. "
        "Estimates KL(mu || pi_theta).",
        "May be negative on finite data. |k1| > 0.1 is far off policy (verl)."),
    Metric("kl/k2", "nats^2",
        "Mean of d^2/2 over valid tokens, same d.",
        "Never negative and less heavy-tailed than k3 (Schulman 2020)."),
    Metric("kl/k3", "nats",
        "Mean of exp(d) - 1 - d over valid tokens, same d.",
        "Never negative. Above 1e-3: investigate (NeMo-RL). Holds the ratio: heavy-tailed itself."),
    Metric("kl/k3_max", "nats",
        "Largest per-update mean of exp(d) - 1 - d of the step.",
        "Divergence grows inside a step: the last updates are the stalest."),
    Metric("kl/k3_kept", "nats",
        "Mean of exp(d) - 1 - d over the valid tokens that weight and rejections left in.",
        "The divergence that the update still acts on; kl/k3 where nothing is removed."),
    Metric("kl/k3_removed", "nats",
        "Mean of exp(d) - 1 - d over the valid tokens that weight or rejection took out. Absent where none was.",
        "Far above kl/k3_kept: the correction finds the tail. Near it: it removes at random."),
    Metric("kl/k3_over_entropy", "ratio",
        "kl/k3 / train/entropy, both over the step's valid tokens: a ratio of means. Absent where the entropy is 0.",
        "Divergence measured by how undecided the policy is (prime-rl's kl_ent_ratio): a sure policy "
        "can afford less of it."),
    *(
        Metric(f"batching/{name}", unit, f"{definition} d = log pi alone - log pi eight rows at a time, equal "
            "weights and tokens; at step 1.", reading)
        for name, unit, definition, reading in (
            ("std", "nats", "Population standard deviation of d.",
                "The floor of ratio/*/std: what lies below is arithmetic of the trainer, not policy."),
            ("p95", "nats", "95 % quantile of |d|.", "As std, for the shoulders."),
            ("max", "nats", "Largest |d|.", "A tail that ends here is no tail of the policy."),
            ("outside_band", "share", "Tokens with exp(d) outside [0.9, 1.1] / tokens.",
                "0 in float32; 8 % in a bfloat16 run of trl#6789. Float32 masters, a float32 head or float16 "
                "lower it."),
        )
    ),
    *(
        Metric(f"advantage/{name}", "share", f"Valid tokens with {sign} advantage / valid tokens.", reading)
        for name, sign, reading in (
            ("positive", "positive", "Long wrong answers push it down although rewards stay."),
            ("negative", "negative", "Where the left tail hurts: their ratios fall as training moves."),
            ("zero", "zero", "Tokens that teach nothing; near 1 with reward/solved_all or solved_none."),
        )
    ),
    *(
        Metric(f"{area}/{key}", unit, definition, reading)
        for area, what in (("kl", "kl/k3 or kl/k3_max"), ("train", "train/grad_norm"))
        for key, unit, definition, reading in (
            ("spike", "flag",
                f"1 when log {what} stands more than 4 robust standard deviations above its trailing window.",
                "Share of ones = spike rate. Absent until 16 steps have computed v. Who made it: "
                "spikes.jsonl."),
            ("spike_z", "robust sd",
                f"(log v - median) / (1.4826 max(MAD, 0.05)) over the last 50 values of v before this one, v = {what}; "
                "the largest where there are two.",
                "Above 4 is a spike; no look-ahead."),
        )
    ),
    *(
        Metric(f"mismatch/{name}", unit, f"{definition} Of pi_old and mu; valid tokens.", reading)
        for name, unit, definition, reading in (
            ("prob_gap", "probability",
                "Mean |pi_old - mu|, each token once.", "Dominated by tokens of middling probability."),
            ("prob_gap_max", "probability",
                "Largest |pi_old - mu| of the step.", "Near 1: one engine was sure of what the other excluded."),
            ("log_correlation", "1",
                "Pearson correlation of log pi_old and log mu, each token once.",
                "1 when the engines agree. Absent when one side is constant."),
            ("mult_prob_error", "ratio",
                "Mean of exp |log pi_old - log mu|, each token once.", "Above 1.05: look (NeMo-RL)."),
            ("log_ppl_diff", "nats",
                "Mean over responses of mean_t(log mu - log pi_old), each response once.",
                "Signed: which engine finds the responses likelier (verl)."),
            ("ppl_ratio", "ratio",
                "Mean over responses of exp(mean_t(log mu - log pi_old)), each response once.",
                "1 when the engines agree (verl)."),
        )
    ),
    Metric("receipt/clipped_low", "share",
        "Valid tokens with ratio below the band and negative advantage (cispo: any advantage) / valid tokens.",
        "With ppo only dead gradients count: a low ratio with positive advantage still trains. With cispo the "
        "gradient lives and its coefficient is clipped."),
    Metric("receipt/clipped_high", "share",
        "Valid tokens with ratio above the band and positive advantage (cispo: any advantage) / valid tokens.",
        "As clipped_low. Near 0 throughout: the upper clip is no correction at all."),
    Metric("receipt/dual_clipped", "share",
        "Valid tokens with ratio above dual_clip and negative advantage / valid tokens.",
        "Where one huge ratio would otherwise rule the update; should be rare."),
    *(
        Metric(f"receipt/outside_{side}_{sign}", "share",
            f"Valid tokens with ratio {where} the band and {sign} advantage / valid tokens.",
            "With ppo the gradient dies for low and negative, high and positive (= clipped_*), and lives "
            "for the others; with cispo it lives for all.")
        for side, where in (("low", "below"), ("high", "above"))
        for sign in ("negative", "positive")
    ),
    Metric("receipt/truncated", "share",
        "Valid tokens whose weight was lowered to weight.upper / valid tokens.",
        "0 for many steps: the correction does nothing."),
    Metric("receipt/raised", "share",
        "Valid tokens whose weight was raised to weight.lower / valid tokens.",
        "Only weight.action: clip can make it positive."),
    Metric("receipt/masked", "share",
        "Valid tokens whose weight was set to 0 / valid tokens.",
        "At product level whole responses go; near 1 there is no training left."),
    Metric("receipt/rejected", "share",
        "Valid tokens that a rejection took out / valid tokens.",
        "0 for many steps: the rejection never fires. Near 1 there is no training left."),
    Metric("receipt/rejected_sequences", "share",
        "Responses whose valid tokens were all rejected / responses with valid tokens.",
        "Above receipt/rejected where long responses survive; below where they go."),
    Metric("receipt/removed_negative", "share",
        "Valid tokens with weight 0 (masked or rejected) and negative advantage / valid tokens.",
        "Beside removed_positive: whose tokens the correction takes, failures' or successes'."),
    Metric("receipt/removed_positive", "share",
        "Valid tokens with weight 0 (masked or rejected) and positive advantage / valid tokens.",
        "Rising: the correction removes what the policy should learn from."),
    Metric("receipt/advantage_removed", "share",
        "Sum of |advantage| over valid tokens with weight 0 (masked or rejected) / its sum over all valid "
        "tokens.",
        "Above removed tokens' share: the correction takes the tokens that matter most."),
    Metric("receipt/reference_log_ratio_clamped", "share",
        "Valid tokens whose log ratio to the reference met reference_kl.log_ratio_clamp / valid tokens.",
        "Above 0: tokens that are not pulled back, however far they have gone."),
    Metric("receipt/reference_value_clamped", "share",
        "Valid tokens whose KL estimate met reference_kl.value_clamp / valid tokens.",
        "Above 0: tokens that are not pulled back, but for k3_straight_through."),
    Metric("receipt/entropy_bonus", "share",
        "Valid tokens whose entropy the bonus rewards / valid tokens; only where the bonus is above 0.",
        "1 but for tokens that a rejection took out."),
    Metric("receipt/lr_scale", "share",
        "Mean over the step's updates of the learning rate / the full one; only with a schedule or a warm-up.",
        "How much of the step size the schedule left: read scores of early and late steps by it."),
    Metric("receipt/long_prompts", "share",
        "Questions left out for a prompt longer than rollout.filter.max_prompt / questions looked at: of a list all, "
        "once; of a task that makes them up those of the step.",
        "0: the limit does nothing. Large: the run trains on another task than its name says."),
    Metric("receipt/refilled_groups", "share",
        "Groups of equal rewards whose place another prompt took / groups; rollout.filter.zero_variance: refill.",
        "Each cost at least one more group to sample. Rising: fewer prompts of the task teach anything."),
    Metric("receipt/dropped_groups", "share",
        "Groups of equal rewards that were left out of the updates / groups; zero_variance: drop or refill.",
        "Under refill what the last round left. Near 1 there is no training left."),
    Metric("receipt/overlong", "share",
        "Responses cut off at rollout.max_tokens that overlong masked, or whose reward it set to 0 / responses.",
        "0: overlong does nothing. Near 1 the limit, not the task, decides what is learned."),
    Metric("receipt/saturated", "share",
        "Valid tokens whose log ratio met objective.log_ratio_clamp / valid tokens.",
        "Above 0: ratios were cut before the correction saw them."),
    Metric("receipt/weight_removed", "share",
        "Sum over valid tokens of max(weight before - weight after, 0) / sum of the weight before.",
        "How much of the importance mass the correction threw away: its bias."),
    Metric("receipt/soft_weight", "ratio",
        "Mean over valid tokens of vespo's weight phi of their response.",
        "1 at ratio 1; near 0 the responses are silenced. Its quantiles follow from ratio/loss/product/*."),
    Metric("receipt/head_mass", "share",
        "Mean over valid tokens of pi_theta's mass on the sampler's likeliest tokens (score centering).",
        "Below 0.99: much of the mean score is modelled, not known; raise rollout.top_logprobs."),
    Metric("receipt/head_mass_rollout", "share",
        "Mean over valid tokens of mu's mass on the sampler's likeliest tokens (score centering).",
        "Beside head_mass: the two should agree to the size of the mismatch."),
    Metric("receipt/tail_excess", "ratio",
        "Mean over valid tokens of (mu's mass off the head) / (pi_theta's), both floored at 1e-6.",
        "1 when the engines agree; far from it the modelled tail leads the correction."),
    Metric("receipt/centering", "share",
        "Mean over valid tokens of the sum of |coefficient| over the candidates (score centering).",
        "0: nothing is centred, as where no candidate meets the weight's bounds. With tail: softmax it is near 1."),
    Metric("receipt/outside_head", "share",
        "Valid tokens that are not among the sampler's likeliest / valid tokens (score centering).",
        "Above 0.01: raise rollout.top_logprobs."),
    Metric("receipt/surviving", "share",
        "Valid tokens that neither the clip, the weight nor the clamp took the gradient from / valid "
        "tokens; tokens of zero advantage count as surviving.",
        "The effective step size that the correction leaves; compare arms by it."),
    Metric("sigma/mean", "hidden units",
        "Mean over perturbed layers (vocabulary entries with per: vocab) of the noise scale at the end of "
        "the step, schedule included; relative to the rms with scale: rms.",
        "Constant when not learnable; a drift with zero gradient is weight decay on log sigma."),
    Metric(
        "sigma/min", "hidden units", "Smallest noise scale of the perturbed layers.", "See mean."
    ),
    Metric(
        "sigma/max", "hidden units", "Largest noise scale of the perturbed layers.", "See mean."
    ),
    Metric("sigma/grad_norm", "norm",
        "Norm of the gradient of log sigma before clipping, mean over the step's updates.",
        "Its share of train/grad_norm is the share of the clip that log sigma takes."),
    Metric("noise/realised_std", "hidden units",
        "Root mean square of (state after - state before) the addition, in the model's dtype; mean over "
        "perturbed layers, on up to 2^17 numbers of the step's first noisy forward, real tokens only.",
        "The noise that acted, not the one asked for."),
    Metric("noise/realised_ratio", "ratio",
        "Root mean square of the noise that arrived / (sigma, times the token's rms where relative); the "
        "smallest over perturbed layers.",
        "1 is right; under 0.5 the dtype swallows the noise (bfloat16 at 1e-4: 0.28, docs/alp.md)."),
    Metric("noise/to_rms", "ratio",
        "noise/realised_std / root mean square of the state before the addition; mean over layers.",
        "How loud the noise is; with scale: absolute it falls with depth as the residual stream grows."),
    Metric("noise/signal_to_noise", "ratio",
        "|mean| / sample standard deviation, over the step's micro-batches, of the gradient of log sigma; "
        "mean over its entries. Absent below two micro-batches.",
        "Near 0 log sigma walks at random: its signal grows with sigma itself (docs/alp.md)."),
    Metric("rollout/rounded_share", "share",
        "Weights of the decoder blocks' matrices that rollout.weights rounds / all of them; at step 0, and "
        "absent where none is rounded.",
        "1 for models whose every matrix is known; a run below 0.95 does not start."),
    Metric("probe/gap_mean", "nats",
        "Mean |log-prob difference| between trainer (in its own dtype and head) and sampler on the fixed "
        "probe after a sync; each probe token counts once.",
        "Both engines' rounding. A jump means a stale sampler, which looks like the phenomenon under study "
        "(trl#5312)."),
    Metric("probe/gap_max", "nats",
        "Largest |log-prob difference| on the probe after a sync.",
        "Large with a small mean: a few tokens at the edge of the sampler's precision."),
    Metric("policy/lag", "steps",
        "Trainer's step minus the step of the weights that sampled the rollout.",
        "rollout.lag after the first steps; anything else is a fault."),
    Metric("nonfinite/rollout_logp", "count",
        "Sampler log-probs of the step that were NaN or infinite, masked from everything.",
        "0. Past diagnostics.max_nonfinite the run stops."),
    Metric("nonfinite/loss_logp", "count",
        "Valid tokens of the step that the loss left out because a log-prob it uses is NaN or infinite.",
        "0; the trainer's own numbers are broken otherwise."),
    Metric("nonfinite/grad_norm", "count",
        "Updates of the step whose gradient norm was NaN or infinite.",
        "0; each is a skipped update. Under dtype: float16 overflows of the loss scale are among them."),
    *(
        Metric(f"time/{name}", "seconds", f"Wall-clock time of the step spent on {what}.", reading)
        for name, what, reading in (
            ("rollout", "sampling responses and their rewards", "Usually the largest part."),
            ("logp_old", "forwards for log pi_old", "Once per rollout."),
            ("update", "forwards, backwards and optimizer steps", "Noise adds a few per cent."),
            ("clean_forward", "a perturbed arm's extra unperturbed forward on diagnostic steps",
                "About a third of update, of which a step's first update is free; diagnostics.every thins it out."),
            ("diagnostics", "statistics of ratios and spikes", "Under 1 % of a step of a real model."),
            ("sync", "moving weights to the sampler and the probe", "Grows with the model."),
            ("eval", "held-out evaluation", "Only on evaluation steps."),
            ("records", "handing over records and replay weights", "Files are written beside the next step."),
            ("step", "everything but the checkpoint", "The parts and a little untimed glue."),
        )
    ),
    Metric("perf/tokens_per_second", "tokens / second",
        "Prompt and response tokens that the step trained on / its seconds without evaluation and checkpoint: "
        "sampling, updates, diagnostics, sync, records.",
        "Compare runs on one machine with one number of jobs."),
    Metric("perf/mfu", "share",
        "Operations of the step's updates (2 forward, 4 backward for a token and a weight of the layers' "
        "matrices; the LM head on response tokens only; attention for pairs that see each other; nothing for "
        "what is recomputed or has no backward) / time/update / operations a second of a large matrix product "
        "in the run's dtype, measured on the device at start.",
        "0.7 is good on a CPU. Absent for mixtures of experts; rough for other than Llama-like models; beside "
        "other work the limit itself is measured too low."),
    Metric("memory/peak", "GiB",
        "Largest memory of the step before its evaluation: allocated on the GPU, or resident in this process "
        "without one.",
        "Compare arms of one grid only; on a CPU the highest of the process so far, as freed memory is kept for "
        "reuse. Absent where the system does not tell."),
    Metric("progress/tokens", "tokens",
        "Response tokens trained on since the start of the run.",
        "The axis on which arms with different lengths are comparable."),
    Metric("progress/samples", "responses",
        "Responses in the steps' batches since the start of the run, left out of training or not.",
        "Equal across arms at equal step."),
)
# fmt: on

RATIO_KINDS: Final[dict[str, str]] = {
    "raw": "unperturbed pi_theta / mu, for every arm: the quantity on which arms are compared",
    "mismatch": "pi_old / mu: two engines, one set of weights",
    "staleness": "pi_theta / pi_old: the updates since the rollout",
    "perturbation": "pi_theta,delta / pi_theta: the noise alone in float32; under autocast (dtype: bfloat16, "
    "float16) two forwards that round differently, so that it includes rounding and a small sigma shows "
    "mostly that: read it beside noise/to_rms (perturbed arms only)",
    "loss": "the ratio that the surrogate clips, per token before reduction and clamp "
    "(perturbed where the arm perturbs)",
    "applied": "the weights that multiplied the loss, over tokens with weight > 0 only "
    "(zeros are counted by receipt/masked and rejected)",
}
RATIO_LEVELS: Final[dict[str, str]] = {
    "token": "each valid token counts once",
    "geometric": "log ratio averaged over a response's valid tokens; each response counts once",
    "product": "log ratio summed over a response's valid tokens; each response counts once",
}
_LOG = "of the log ratio, in nats"
_RATIO_TEMPLATE = "ratio/{kind}/{level}/{stat}"
# fmt: off
RATIO_STATS: Final[dict[str, Metric]] = {
    stat: Metric(_RATIO_TEMPLATE.replace("{stat}", stat), unit, definition, reading)
    for stat, unit, definition, reading in (
        ("mean", "nats", f"Mean {_LOG}.", "0 on policy; minus k1."),
        ("std", "nats", f"Population standard deviation {_LOG}.", "The body, not the tail."),
        ("min", "nats", f"Minimum {_LOG}.", "-20 is where engines clamp."),
        ("max", "nats", f"Maximum {_LOG}.", "+20 is where engines clamp."),
        *(
            (f"p{digits}", "nats", f"{percent} % quantile (linear interpolation) {_LOG}.", reading)
            for digits, percent, reading in (
                ("01", "1", "Left tail: tokens that the trainer disowns."),
                ("02", "2", "Lower edge of the paper's envelope."),
                ("50", "50", "0 when most tokens agree."),
                ("98", "98", "Upper edge of the paper's envelope."),
                ("99", "99", "Right tail."),
                ("999", "99.9", "Needs 1000 items to differ from the maximum."),
            )
        ),
        ("ess", "share",
            "Effective sample size of the ratio x itself: (sum x)^2 / (N sum x^2).",
            "1 on policy; under 0.3-0.5 the batch is worth little (verl). Raw, never truncated."),
        ("chi2", "1",
            "mean(x^2) - 1 of the ratio x itself; at most the largest float64.",
            "0 on policy, above 1 is bad (verl). May be negative on finite data."),
        ("hill_right", "1",
            "Hill estimate of the ratio's right tail on the n_tail largest ratios (as khat_right).",
            "Tail shape xi: variance exists below 0.5, mean below 1. One k: see the Hill plot."),
        ("hill_left", "1",
            "Hill estimate of the right tail of 1/ratio on its n_tail largest values.",
            "As hill_right, for ratios near 0."),
        ("khat_right", "1",
            "Pareto k-hat of the ratio: Zhang-Stephens shape of the excesses of its "
            "ceil(min(0.2 N, 3 sqrt N)) largest values, with PSIS's weak prior.",
            "Above min(1 - 1/log10 N, 0.7): means of ratios cannot be trusted "
            "(Vehtari et al. 2024, arXiv:1507.02646). Absent when flat, short or saturated."),
        ("khat_left", "1",
            "Pareto k-hat of 1/ratio, computed as khat_right.",
            "As khat_right, for ratios near 0."),
        ("top1_share", "share",
            "Sum of the ceil(N/100) largest ratios / sum of all ratios.",
            "0.01 on policy; near 1 one per cent of the items is the whole update."),
        ("k3", "nats",
            "Mean of x - 1 - log x of the ratio x; at most the largest float64.",
            "Never negative; of raw at token level it is kl/k3. Above 1e-3: investigate (NeMo-RL)."),
        *(
            (f"{side}_band", "share",
                f"Items with ratio {than} / all items, to a bin of the sketch (0.9 %).",
                "0 when engines and updates agree; verl's band is [0.5, 2].")
            for side, than in (("below", "< 0.5"), ("above", "> 2"))
        ),
        ("nonfinite", "count",
            "Items whose log ratio is NaN or infinite; every other stat leaves them out.",
            "0. Whatever else is logged describes the rest only."),
        ("zero_share", "share",
            "Items with log ratio exactly 0 / all items.",
            "An atom: both policies gave the same float. Near 1, quantiles and tails describe the few others."),
        ("saturated", "share",
            "Items with |log ratio| >= 20 nats / all items.",
            "0. Engines clamp there, so such items are censored observations."),
    )
}
# fmt: on
_WIDTH = Metric(
    "ratio/raw/token/width",
    "nats",
    f"p98 - p02 {_LOG}: ratio/raw/token/p98 minus ratio/raw/token/p02.",
    "The envelope's width in one number; wider is further off policy.",
)
# fmt: off
_BY_LAYER = {
    metric.key.removesuffix("/layer_{nn}"): metric
    for metric in (
        Metric("sigma/layer_{nn}", "hidden units",
            "Noise scale of layer nn (0-based, at least two digits) at the end of the step.",
            "Which layers the training asks to be noisier. Only perturbed layers appear."),
        Metric("sigma/grad_norm/layer_{nn}", "norm",
            "|gradient of log sigma| of layer nn before clipping, mean over the step's updates.",
            "See sigma/grad_norm."),
        Metric("noise/realised_std/layer_{nn}", "hidden units",
            "noise/realised_std of layer nn alone.", "See noise/realised_std."),
        Metric("noise/to_rms/layer_{nn}", "ratio",
            "noise/to_rms of layer nn alone.", "Matched sigmas still differ here from layer to layer."),
        Metric("noise/signal_to_noise/layer_{nn}", "ratio",
            "noise/signal_to_noise of layer nn alone.", "Which layers' sigma is learned, not drifting."),
    )
}
# fmt: on
_LAYER_KEY = re.compile(r"(.+)/layer_(\d\d|[1-9]\d{2,})")
_SET_STATS = ("greedy", "avg_at_k", "pass_at_k", "timeouts", "failures")
_SET_KEY = re.compile(rf"eval/[a-z0-9][a-z0-9_.-]*/({'|'.join(_SET_STATS)})")


def _of_a_set(stat: str, key: str = "") -> Metric:
    whole = next(metric for metric in _PLAIN if metric.key == f"eval/{stat}")
    return whole._replace(
        key=key or f"eval/{{set}}/{stat}",
        definition=f"eval/{stat} of one evaluation set under `evals`.",
        reading=f"eval/{stat} is the {'sum' if whole.unit == 'count' else 'unweighted mean'} over the sets.",
    )


@cache
def _table() -> dict[str, Metric]:
    table = {metric.key: metric for metric in (*_PLAIN, _WIDTH)}
    for kind, what in RATIO_KINDS.items():
        for level, weighting in RATIO_LEVELS.items():
            for stat, family in RATIO_STATS.items():
                key = f"ratio/{kind}/{level}/{stat}"
                definition = f"{family.definition} Ratio: {what}. Level: {weighting}."
                table[key] = family._replace(key=key, definition=definition)
    return table


def describe(key: str) -> Metric:
    """Give the definition of `key`; raises `TrackingError`, naming the closest key, when there is none."""
    if metric := _table().get(key):
        return metric
    if (match := _LAYER_KEY.fullmatch(key)) and match[1] in _BY_LAYER:
        return _BY_LAYER[match[1]]._replace(key=key)
    if match := _SET_KEY.fullmatch(key):
        return _of_a_set(match[1], key)
    near = did_you_mean(key, [*_table(), "sigma/layer_00"])
    raise TrackingError(
        f"{key!r} is not a metric",
        why="an unlisted key has no definition, so nobody could read or compare it",
        fix=f"{near} docs/metrics.md lists every key; a new one is added in alpkit/metrics.py first".lstrip(),
    )


def known_keys() -> list[str]:
    """List every key; of a family whose members a run decides, its template (`sigma/layer_{nn}`)."""
    sets = [f"eval/{{set}}/{stat}" for stat in _SET_STATS]
    return [*_table(), *(metric.key for metric in _BY_LAYER.values()), *sets]


def check_keys(keys: Iterable[str]) -> None:
    """Raise `TrackingError` for the first of `keys` that is not a metric."""
    for key in keys:
        describe(key)


_HEAD = """\
# Metrics

Generated by `python -m alpkit.metrics`; edit `alpkit/metrics.py` instead.
One value per key and step. A key that could not be computed is absent, never 0.
d is a log ratio in nats, x = exp(d), N the number of items; valid tokens are response
tokens whose log-probs are finite."""
_RATIO_HEAD = f"""\
`{_RATIO_TEMPLATE}` for every kind, level and stat below, and `{_WIDTH.key}`.
Mean, std, min, max and quantiles are of the **log** ratio, in nats; ess, chi2, tails and
top1_share of the ratio itself. Nothing is clamped. All come from a sketch of the step: exact for the
4,096 largest and smallest items; beyond them quantiles, bands and top1_share are good to a bin of
0.93 %, and the tail of hill and khat is cut to 4,095 items."""


def _rows(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [header, tuple("---" for _ in header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines]


def _metric_rows(metrics: Iterable[Metric]) -> list[str]:
    header = ("key", "unit", "definition", "how to read it")
    return _rows(header, ((f"`{m.key}`", m.unit, m.definition, m.reading) for m in metrics))


def markdown() -> str:
    """Return the text of docs/metrics.md."""
    areas: dict[str, list[Metric]] = {}
    for metric in _PLAIN:
        areas.setdefault(metric.key.split("/")[0], []).append(metric)
    areas["eval"] += map(_of_a_set, _SET_STATS)
    for metric in _BY_LAYER.values():
        areas[metric.key.split("/")[0]].append(metric)
    lines = _HEAD.splitlines()
    for area, metrics in areas.items():
        lines += ["", f"## {area}", "", *_metric_rows(metrics)]
    lines += ["", "## ratio", "", *_RATIO_HEAD.splitlines(), ""]
    lines += [*_rows(("kind", "ratio"), ((f"`{k}`", v) for k, v in RATIO_KINDS.items())), ""]
    lines += [*_rows(("level", "items"), ((f"`{k}`", v) for k, v in RATIO_LEVELS.items())), ""]
    lines += _metric_rows((*RATIO_STATS.values(), _WIDTH))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
