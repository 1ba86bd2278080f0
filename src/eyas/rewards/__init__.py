"""Extra reward terms, one a file. What a recipe says of them (`options`) loads no torch."""
