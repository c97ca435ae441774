"""ListOps a second time, by other means than the product's: a stack over the symbols of the text, numpy for the operators."""

import numpy as np


def value_of(text: str) -> int:
    stack: list = []
    for symbol in text.split():
        if symbol == "]":
            arguments = []
            while not isinstance(stack[-1], str):
                arguments.append(stack.pop())
            operator = stack.pop()
            functions = {
                "[MIN": np.min,
                "[MAX": np.max,
                "[MED": lambda values: np.floor(np.median(values)),
                "[SM": lambda values: np.sum(values) % 10,
            }
            stack.append(int(functions[operator](arguments)))
        else:
            stack.append(int(symbol) if symbol.isdigit() else symbol)
    assert len(stack) == 1
    return stack[0]
