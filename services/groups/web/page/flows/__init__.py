"""What a visitor can do on the page, one module for each flow. A flow may know `commands`, and no other flow.

Each function answers one route (`site` has the table): it takes a `Visit`, reads what it needs, and shows an `Answer`.
"""
