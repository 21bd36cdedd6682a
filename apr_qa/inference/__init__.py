"""What the engines share: the decode loop, sampling, chat templates, native handles."""
