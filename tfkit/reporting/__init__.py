"""Reports on run folders: their facts, sums and comparisons, as text, JSON, CSV, Markdown and HTML. Free of torch.

    run folders -> read_facts -> RunFacts     (run_facts.py; metric_lines.py reads metrics.jsonl)
    RunFacts -> sums over runs, comparison at equal loss -> terminal table, documents, an HTML page (page.html.jinja)

Nothing here writes into a run folder. Whatever a folder has (a run in progress, a killed or damaged run, a file of 10 GB), it is read with
bounded memory, and `problems` lists what was skipped.
"""
