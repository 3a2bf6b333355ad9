"""How well are questions answered, beside plain references and other toolkits? See `__main__`."""
