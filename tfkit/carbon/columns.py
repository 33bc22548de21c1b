"""The columns of emissions.csv: the fields of the installed CodeCarbon's record, in its order.

CodeCarbon moves a file with any other set of columns aside, so tfkit adds none.
"""

import ast
import functools

from tfkit.carbon.place import codecarbon_folder

CODECARBON_3_3 = (
    "timestamp project_name run_id experiment_id duration emissions emissions_rate cpu_power gpu_power ram_power cpu_energy gpu_energy "
    "ram_energy energy_consumed water_consumed country_name country_iso_code region cloud_provider cloud_region os python_version "
    "codecarbon_version cpu_count cpu_model gpu_count gpu_model longitude latitude ram_total_size tracking_mode cpu_utilization_percent "
    "gpu_utilization_percent ram_utilization_percent ram_used_gb on_cloud pue wue"
)


@functools.cache
def installed_columns() -> tuple[str, ...]:
    """Return the fields of `EmissionsData`, read from its source: importing CodeCarbon takes 0.2 s, and may fail or hang."""
    try:
        path = codecarbon_folder() / "output_methods" / "emissions_data.py"
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == "EmissionsData":
                names = [line.target.id for line in node.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]
                if {"run_id", "emissions", "energy_consumed"} <= set(names):
                    return tuple(names)
    except (OSError, SyntaxError, ValueError):
        pass
    return tuple(CODECARBON_3_3.split())
