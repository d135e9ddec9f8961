"""A web server: classifiers behind the REST interface of TensorFlow Serving."""
