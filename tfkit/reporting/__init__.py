"""Reports on run folders: what is read of them, sums and comparisons, and their forms as text, JSON, CSV, Markdown and HTML. Free of torch.

    run folders -> read_facts -> RunFacts     (run_facts.py; metric_lines.py, power_ticks.py, checkpoint_facts.py read its parts)
    RunFacts -> sums over runs, comparison at equal loss -> terminal table, documents, an HTML page

Nothing here writes into a run folder, and whatever a folder holds (a run in progress, a killed or damaged one, a file of 10 GB) is read
within bounds: what was left out is named in `problems`.
"""
