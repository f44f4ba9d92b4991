"""What is generated from the contracts' models and what guards them: schemas, AsyncAPI documents, examples, releases.

    python -m deploy.contract_tools                   regenerate contracts/schemas and contracts/asyncapi
    python -m deploy.contract_tools check             say what is stale, lacks an example, or breaks a released version
    python -m deploy.contract_tools release 2.1.0     freeze today's contracts as a version

No service imports this package: services need only the models.
"""
