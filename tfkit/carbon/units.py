"""Energy and mass for people: a short run is a milligram, a long one a tonne."""


def format_grams(grams: float) -> str:
    """Three significant digits of grams of CO2e: 12.3 ug, 690 mg, 1.2 kg."""
    return _scaled(grams, (("t", 1e6), ("kg", 1e3), ("g", 1.0), ("mg", 1e-3), ("ug", 1e-6)))


def format_watt_hours(watt_hours: float) -> str:
    """Three significant digits of energy: 0.412 mWh, 41.2 Wh, 3.1 MWh."""
    return _scaled(watt_hours, (("MWh", 1e6), ("kWh", 1e3), ("Wh", 1.0), ("mWh", 1e-3)))


def _scaled(value: float, units: tuple[tuple[str, float], ...]) -> str:
    if not value:
        return next(f"0 {unit}" for unit, size in units if size == 1.0)
    unit, size = next(((unit, size) for unit, size in units if value >= size), units[-1])
    text = f"{float(f'{value / size:.3g}'):f}"
    return f"{text.rstrip('0').rstrip('.')} {unit}"
