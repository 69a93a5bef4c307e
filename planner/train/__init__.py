from planner.native import refuse_fetched

refuse_fetched()  # this runs before any module of the package imports transformers, peft or bitsandbytes
