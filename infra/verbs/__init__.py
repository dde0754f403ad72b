"""The verbs of the command line, one module each: values in, one result out."""
