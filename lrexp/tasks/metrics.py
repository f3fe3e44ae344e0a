"""Metrics under their exact names, through scikit-learn and SciPy, each with its standard error over the items.

Both are imported by the metrics that need them: they take a second, which a run measured by its accuracy saves.

accuracy, exact_match: the analytic error sqrt(p (1 - p) / n). All others: the standard deviation over 300 bootstrap
samples of the items, drawn from a fixed seed; for f1 and matthews as multinomial draws of the confusion matrix, which
is the same.
f1 is that of class 1 where there are two classes, the mean over classes (macro) where there are more; a class without
items and predictions counts 0. matthews of a constant prediction is 0, as in scikit-learn. pearson and spearman of a
constant are undefined and given as 0. `constant_prediction` is 1 beside metrics of predictions that are all the same.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np

_RESAMPLES = 300
_SEED = 20240229
_AT_ONCE = 4_000_000  # numbers held at once by a vectorised bootstrap

Values = dict[str, float]


def classification_metrics(names: Sequence[str], labels: np.ndarray, predictions: np.ndarray, classes: int) -> Values:
    """The named metrics of predicted classes (items,) int64, and their standard errors."""
    confusion = _confusion(labels, predictions, classes)
    found: Values = {}
    for name in names:
        if name == "accuracy":
            found |= proportion(name, labels == predictions)
            continue
        found[name] = _f1(labels, predictions, classes) if name == "f1" else _matthews(labels, predictions)
        statistic = f1_of_confusion if name == "f1" else matthews_of_confusion
        found[f"{name}_standard_error"] = float(np.std(statistic(_resampled(confusion)), ddof=1))
    if len(np.unique(predictions)) == 1:
        found["constant_prediction"] = 1.0
    return found


def proportion(name: str, is_right: np.ndarray) -> Values:
    """The share of items that are right, (items,) bool, and its analytic standard error."""
    share = float(np.mean(is_right))
    return {name: share, f"{name}_standard_error": float(np.sqrt(share * (1 - share) / len(is_right)))}


def regression_metrics(names: Sequence[str], labels: np.ndarray, predictions: np.ndarray) -> Values:
    """The named metrics of predicted numbers (items,) float64, and their standard errors."""
    is_constant = len(np.unique(labels)) == 1 or len(np.unique(predictions)) == 1
    found: Values = {}
    for name in names:
        if name == "mse":
            found[name] = _mse(labels, predictions)
        elif is_constant:
            found[name] = 0.0
        else:
            found[name] = _correlation(name, labels, predictions)
        found[f"{name}_standard_error"] = _bootstrap(_STATISTICS[name], labels, predictions)
    if is_constant and set(names) & {"pearson", "spearman"}:
        found["constant_prediction"] = 1.0
    return found


def language_metrics(losses: np.ndarray, tokens: np.ndarray, sizes: np.ndarray) -> Values:
    """Loss per token, its exponential, and bits per byte, from sums of nats, tokens and bytes of each sequence.

    Weighted by tokens: sums over all sequences divided by sums. The standard errors are those of a ratio of two sums
    over sequences (Cochran, Sampling Techniques, 1977, section 6.4); that of the perplexity by the delta method.
    """
    loss, error = _ratio(losses, tokens)
    per_byte, byte_error = _ratio(losses / np.log(2), sizes)
    perplexity = float(np.exp(min(loss, 700.0)))  # a float's largest
    return {
        "loss": loss, "loss_standard_error": error,
        "perplexity": perplexity, "perplexity_standard_error": perplexity * error,
        "bits_per_byte": per_byte, "bits_per_byte_standard_error": byte_error,
    }  # fmt: skip


def _ratio(values: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    total = float(sizes.sum())
    if total == 0:
        return float("nan"), float("nan")
    ratio = float(values.sum()) / total
    if len(values) < 2:
        return ratio, float("nan")
    return ratio, float(np.std(values - ratio * sizes, ddof=1) * np.sqrt(len(values)) / total)


def _mse(labels: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import mean_squared_error

    return float(mean_squared_error(labels, predictions))


def _correlation(name: str, labels: np.ndarray, predictions: np.ndarray) -> float:
    from scipy.stats import pearsonr, spearmanr

    correlate = pearsonr if name == "pearson" else spearmanr
    with warnings.catch_warnings():  # SciPy warns of nearly constant values
        warnings.simplefilter("ignore")
        value = float(correlate(labels, predictions).statistic)  # pyright: ignore[reportAttributeAccessIssue]
    return value if np.isfinite(value) else 0.0


def _confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """How often each class was taken for each, (true, predicted)."""
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes).astype(float)


def _f1(labels: np.ndarray, predictions: np.ndarray, classes: int) -> float:
    from sklearn.metrics import f1_score

    if classes == 2:
        return float(f1_score(labels, predictions, zero_division=0.0))  # pyright: ignore[reportArgumentType]
    macro = f1_score(labels, predictions, labels=range(classes), average="macro", zero_division=0.0)  # pyright: ignore[reportArgumentType]
    return float(macro)


def _matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    if len(np.unique(predictions)) == 1 or len(np.unique(labels)) == 1:
        return 0.0
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def _resampled(confusion: np.ndarray) -> np.ndarray:
    """Confusion matrices of bootstrap samples, (resamples, classes, classes)."""
    items = confusion.sum()
    draws = np.random.Generator(np.random.PCG64(_SEED)).multinomial(
        int(items), confusion.ravel() / items, size=_RESAMPLES
    )
    return draws.reshape(_RESAMPLES, *confusion.shape).astype(np.float64)


def f1_of_confusion(confusion: np.ndarray) -> np.ndarray:
    """f1 of confusion matrices (..., true, predicted) as `f1` names it, (...,)."""
    true = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(-1) + confusion.sum(-2)  # (..., classes): items and predictions of each class
    f1 = np.divide(2 * true, total, out=np.zeros_like(total), where=total > 0)
    return f1[..., 1] if f1.shape[-1] == 2 else f1.mean(-1)


def matthews_of_confusion(confusion: np.ndarray) -> np.ndarray:
    """Matthews' coefficient of confusion matrices (..., true, predicted), (...,); 0 where undefined. Gorodkin 2004."""
    true, predicted = confusion.sum(-1), confusion.sum(-2)  # (..., classes)
    items = confusion.sum((-2, -1))
    correct = np.diagonal(confusion, axis1=-2, axis2=-1).sum(-1)
    covariance = correct * items - (true * predicted).sum(-1)
    scale = np.sqrt((items**2 - (true**2).sum(-1)) * (items**2 - (predicted**2).sum(-1)))
    return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)


def _bootstrap(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], labels: np.ndarray, predictions: np.ndarray
) -> float:
    """Standard deviation of a statistic of rows (resamples, items) over bootstrap samples of the items."""
    generator = np.random.Generator(np.random.PCG64(_SEED))
    rows = max(1, _AT_ONCE // len(labels))
    values = []
    for start in range(0, _RESAMPLES, rows):
        drawn = generator.integers(len(labels), size=(min(rows, _RESAMPLES - start), len(labels)))
        values.append(statistic(labels[drawn], predictions[drawn]))
    return float(np.std(np.concatenate(values), ddof=1))


def _pearson_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)  # (resamples, items)
    scale = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), scale, out=np.zeros_like(scale), where=scale > 0)


def _spearman_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return _pearson_rows(rankdata(x, axis=1), rankdata(y, axis=1))


def _mse_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x - y) ** 2).mean(1)


_STATISTICS = {"pearson": _pearson_rows, "spearman": _spearman_rows, "mse": _mse_rows}
