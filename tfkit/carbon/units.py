"""Energy and mass for people: a short run is a milligram, a long one a tonne."""


def format_grams(grams: float) -> str:
    """Three significant digits of grams of CO2e: 12.3 ug, 690 mg, 1.2 kg."""
    return _scaled(grams, (("t", 1e6), ("kg", 1e3), ("g", 1.0), ("mg", 1e-3), ("ug", 1e-6)))


def format_watt_hours(watt_hours: float) -> str:
    """Three significant digits of energy: 0.412 mWh, 41.2 Wh, 3.1 MWh."""
    return _scaled(watt_hours, (("MWh", 1e6), ("kWh", 1e3), ("Wh", 1.0), ("mWh", 1e-3)))


def _scaled(value: float, units: tuple[tuple[str, float], ...]) -> str:
    unit, size = next(((unit, size) for unit, size in units if value >= size), units[-1] if value else ("", 0.0))
    if not unit:
        return f"0 {next(unit for unit, size in units if size == 1.0)}"
    digits = max(0, 2 - len(str(int(value / size))) + 1)
    text = f"{value / size:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"
