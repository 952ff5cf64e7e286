"""How `gateway.pyz` is made and how it starts. No other module of the gateway imports from here."""
