async def test_x(served):
    for p in ("/healthz","/readyz","/metrics","/summary","/openapi.json","/v1/status","/v1/plugins","/v1/nodes","/v1/blocks","/nope"):
        r = await served.client.get(p)
        print(p, r.status_code, r.headers, r.text[:300])
    print(served.log.events)
