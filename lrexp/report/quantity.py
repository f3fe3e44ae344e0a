"""Numbers as a reader wants them: 1.18 M parameters, 412 MB, 23.1 ms, 0.7340 of a metric, p < 0.001."""

from __future__ import annotations


def count(value: float | None) -> str | None:
    """Three digits and k, M, B or T (powers of 1000)."""
    return _scaled(value, ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")), "")


def memory(value: float | None) -> str | None:
    """Bytes with three digits and kB, MB, GB or TB (powers of 1000)."""
    return _scaled(value, ((1e12, " TB"), (1e9, " GB"), (1e6, " MB"), (1e3, " kB")), " B")


def duration(seconds: float | None) -> str | None:
    """Milliseconds, seconds, minutes or hours with three digits."""
    if seconds is None:
        return None
    if seconds < 0.9995:
        return f"{_three(seconds * 1000)} ms"
    if seconds < 600:
        return f"{_three(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def metric(value: float | None) -> str | None:
    """Four decimals; two from 10 on, none from 10,000 on, exponents for tiny values."""
    if value is None:
        return None
    if value != 0 and abs(value) < 0.001:
        return f"{value:.2e}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 10000 else f"{value:.0f}"


def p_value(value: float | None) -> str | None:
    """Three decimals; below 0.001 that it is below."""
    if value is None:
        return None
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def difference(value: float | None) -> str | None:
    """As `metric`, with its sign."""
    return None if value is None else f"{'-' if value < 0 else '+'}{metric(abs(value))}"


def _scaled(value: float | None, units: tuple[tuple[float, str], ...], base: str) -> str | None:
    if value is None:
        return None
    for size, unit in units:
        if value >= 0.9995 * size:
            return f"{_three(value / size)}{unit}"
    return f"{value:.0f}{base}"


def _three(value: float) -> str:
    """Three digits, none of them dropped at the end: 1.20, 34.5, 412."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
