"""Images between the Parquet file and the model: encoded until the moment their pixels are needed."""
