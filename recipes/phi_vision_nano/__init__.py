"""How phi-vision-nano was made.

drawing.py draws, scenes.py asks about it in the words of words.py, tokens.py makes the tokenizer,
layout.py the files beside the weights, lessons.py the batches; train.py trains, and examine.py
counts what is answered rightly.
"""
