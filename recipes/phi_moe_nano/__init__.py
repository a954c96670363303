"""How phi-moe-nano and its dense twin were made: a very small mixture of experts, taught from
nothing on text that is made here, and a model of its active size without a mixture, taught alike.

kinds.py makes the lessons, with german.py and stories.py; tokens.py the tokenizer, layout.py the
models; train.py trains, export.py writes what is shipped, and examine.py counts right answers.
"""
