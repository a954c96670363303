"""Any small language model on any runtime, behind one small interface.

    from slm_backends import run, selector
    from slm_backends.chat import ChatRequest, Message

    backend = selector.backend("smollm2-135m-instruct@onnx")
    reply = run.start(backend, ChatRequest((Message("user", "Hello"),))).wait()
    print(reply.text, reply.tokens_per_second)

Works from a page, a test, the command line or a notebook. Importing it imports no runtime.
"""
