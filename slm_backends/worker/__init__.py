"""A local runtime in a child process that is itself an OpenAI-compatible server.

A child process, because native runtimes crash, never give memory back, and hold the interpreter
lock while they compute; ending a process is the only unload that always works.
"""

TOKEN_VARIABLE = "SLM_WORKER_TOKEN"  # environment variable that carries a worker's own key
