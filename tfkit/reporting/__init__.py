"""Reports on runs: their facts, sums and comparisons, as text, JSON, CSV, Markdown and HTML. This package does not import torch.

    run folders -> read_facts -> RunFacts     (run_facts.py; metric_lines.py reads metrics.jsonl)
    RunFacts -> sums over runs, comparison at equal scores -> terminal table, documents, an HTML page (page.html.jinja)

No report writes into a run folder. Any run folder can be read, even if the run is in progress, killed or damaged, or if a file has 10 GB:
reading takes limited memory, and `RunFacts.problems` lists the parts that were skipped.
"""
