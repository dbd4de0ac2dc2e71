"""Tools around runs, for the person at the server. No round needs any of them; a run only writes its page at its end.

- `cli`: the command ``deltamask``, one file a command;
- `doctor`: its checks of a machine before a run;
- `report`: the page of a run, which a run writes too when it ends, and ``deltamask report`` again;
- `watch`: a run as a live table;
- `finetuned`: files of fine-tuned models, which ``deltamask export`` writes and `load_finetuned` reads;
- `outline`: what a backbone consists of and will cost, without its weights;
- `codec_comparison`: every codec on one update, measured;
- `pretrain_letters`: how the embedded backbone was trained.

Nothing outside this package imports it, but for that page, scripts that follow a run, tests and benchmarks.
"""
