"""A web page and an HTTP API in front of a network in ONNX form.

    python -m apps.serve runs/served/resnet10_wide_cifar10.onnx --port 8000 --workers 2

    GET  /         the page: drop or choose a picture, see the five likeliest classes
    POST /predict  a picture as raw body, or as the field "file" of a form; answers JSON
    GET  /health   200 when requests are answered; what is served and what it takes
    GET  /metrics  Prometheus text, summed over all workers

`engine` asks the network, several pictures at a time; `web` lets requests in, refuses and counts
them; `connection` hangs up on clients that keep it waiting; `__main__` opens the port and minds the
workers.

LitServe, made for models, batches too, but its queue has no end: under a burst, requests waited
past its timeout before they got a 504, a broken body got a 500, and after SIGTERM its workers went
on serving, without their parent. So this is Starlette (the part of FastAPI that takes files; there
are no schemas here to check) on uvicorn, where a request can be refused before its body is read and
running ones end before the process does, with some forty lines of our own for the batches.
"""
