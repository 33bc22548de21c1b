"""The examples in each command's --help: short, complete command lines."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "pretrain": (
        "tfkit pretrain demo",
        "tfkit pretrain --data book.txt --minutes 10 --run runs/own",
        "tfkit pretrain gpt2-stdlib training.steps=200 --run runs/short",
        "tfkit pretrain gpt2-stdlib --run runs/short --resume",
    ),
    "finetune": (
        "tfkit finetune --from hub:HuggingFaceTB/SmolLM2-135M --data notes.txt",
        "tfkit finetune --from hub:sentence-transformers/all-MiniLM-L6-v2 --data reviews.csv --run runs/reviews",
        "tfkit finetune --from runs/reviews --data more.csv --dry-run > task.yaml",
        "tfkit finetune python-packages --from runs/bert-stdlib training.epochs=1",
    ),
    "resume": ("tfkit resume runs/demo", "tfkit resume runs/demo training.steps=2000"),
    "sweep": (
        "tfkit sweep gpt2-stdlib optimizer.lr=3e-4,1e-3,3e-3 training.steps=200",
        "tfkit sweep --from runs/reviews --data more.csv optimizer.lr=1e-4,3e-4 --dry-run",
        "tfkit sweep python-packages --from runs/bert-stdlib optimizer.lr=1e-5..1e-3 --trials 8 --run runs/rates",
        "tfkit resume runs/rates",
    ),
    "evaluate": (
        "tfkit evaluate --from runs/demo",
        "tfkit evaluate --from runs/reviews --data test.csv --predictions answers.jsonl",
        'tfkit evaluate --from runs/demo --fail-if "perplexity > 20" --json',
    ),
    "predict": (
        "tfkit predict --from runs/reviews --data new.csv --out labelled.csv",
        'echo "what a film" | tfkit predict --from runs/reviews --data - --all',
    ),
    "embed": (
        "tfkit embed --from hub:sentence-transformers/all-MiniLM-L6-v2 --data reviews.csv --field review --out reviews.npy",
        'echo "what a film" | tfkit embed --from runs/reviews --data -',
    ),
    "generate": (
        'tfkit generate --from runs/demo --prompt "def read_lines(path):"',
        "tfkit generate --from hub:HuggingFaceTB/SmolLM2-135M-Instruct --chat",
        "tfkit generate --from runs/demo --input prompts.jsonl --temperature 0 > texts.jsonl",
    ),
    "runs": ("tfkit runs", "tfkit runs runs --json"),
    "report": (
        "tfkit report runs/demo",
        "tfkit report runs",
        "tfkit report runs --html report.html",
        "tfkit report runs --format csv > runs.csv",
    ),
    "track": ("tfkit track runs/demo --to wandb --project demos", "tfkit track runs/demo --to tensorboard"),
    "average": ("tfkit average runs/demo --last 2 --out models/demo-mean",),
    "replay": ("tfkit replay runs/demo",),
    "plan": (
        "tfkit plan gpt2-stdlib",
        "tfkit plan gpt2-stdlib --probe 10",
        'tfkit plan gpt2-stdlib training.steps=500 --fail-if "emissions_g > 50" --json',
        "tfkit plan --from hub:sentence-transformers/all-MiniLM-L6-v2 --data reviews.csv",
    ),
    "inspect": (
        "tfkit inspect gpt2-stdlib",
        "tfkit inspect gsm8k-chat data.train.0.path=train.jsonl",
        "tfkit inspect gpt2-stdlib --masks --show 1 data.sequence_length=32",
        'tfkit inspect --from runs/my --attention "the cat sat on the mat"',
        'tfkit inspect --from runs/my --attention "the cat sat on the mat" --layer 0 --head 2',
        'tfkit inspect --from runs/my --attention "the cat sat on the mat" --html attention.html',
    ),
    "check": (
        "tfkit check gpt2-stdlib training.steps=1000",
        "tfkit check mine.yaml --ranks 64 --json",
        "tfkit check --schema > recipe.schema.json",
    ),
    "launch": (
        "tfkit launch slurm gpt2-stdlib --nodes 4 --ranks-per-node 2 training.micro_batch_size=4 > job.sh",
        "tfkit launch skypilot gpt2-stdlib --nodes 2 > task.yaml",
    ),
    "export": ("tfkit export runs/demo --gguf demo.gguf", "tfkit export runs/demo --gguf demo-8.gguf --type q8_0"),
    "push": ("tfkit push runs/reviews me/reviews --dry-run", "tfkit push runs/reviews me/reviews"),
    "verify": ("tfkit verify runs/demo",),
    "recipes": ("tfkit recipes", "tfkit recipes gpt2-stdlib > mine.yaml", "tfkit recipes banking77 --fetch"),
    "env": ("tfkit env", "tfkit env --json"),
}
