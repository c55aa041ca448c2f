package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/enroll"
)

func newOrderCommand() *cobra.Command {
	return newClientGroup("order", "Open, change and show work orders", newOrderCreateCommand, newOrderListCommand, newOrderShowCommand, newOrderUpdateCommand)
}

func newOrderCreateCommand(flags *clientFlags) *cobra.Command {
	var o enroll.NewWorkOrder
	cmd := &cobra.Command{
		Use: "create --product PRODUCT --quantity N", Short: "Open a work order with a quota of devices", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			made, err := c.CreateWorkOrder(cmd.Context(), o, client.IdempotencyKey(uuid.NewString()))
			if err != nil {
				return clientError(err)
			}
			return printOrder(cmd, flags, made)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.ID, "id", "", "id (default: made up)")
	f.StringVar(&o.Product, "product", "", "product")
	f.StringVar(&o.Site, "site", "", "site, which chooses the issuer together with the product")
	f.Int64Var(&o.Quantity, "quantity", 0, "how many devices may be enrolled")
	f.StringVar(&o.Profile, "profile", "", "profile (default device)")
	return cmd
}

func newOrderListCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List work orders", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			return printList(cmd.OutOrStdout(), flags.listing(), c.WorkOrders(cmd.Context()), []column[*enroll.WorkOrder]{
				{"WORK ORDER", func(o *enroll.WorkOrder) string { return o.ID }},
				{"PRODUCT", func(o *enroll.WorkOrder) string { return o.Product }},
				{"ISSUED", func(o *enroll.WorkOrder) string { return strconv.FormatInt(o.Issued, 10) }},
				{"QUANTITY", func(o *enroll.WorkOrder) string { return strconv.FormatInt(o.Quantity, 10) }},
				{"STATE", func(o *enroll.WorkOrder) string { return string(o.State) }},
			})
		},
	}
}

func newOrderShowCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a work order", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			o, err := c.WorkOrder(cmd.Context(), args[0])
			if err != nil {
				return clientError(err)
			}
			return printOrder(cmd, flags, o)
		},
	}
}

func printOrder(cmd *cobra.Command, flags *clientFlags, o *enroll.WorkOrder) error {
	if flags.json {
		return printJSON(cmd.OutOrStdout(), o)
	}
	return printFacts(cmd.OutOrStdout(), given("work order", o.ID, "product", o.Product, "profile", o.Profile,
		"issued", fmt.Sprintf("%d of %d", o.Issued, o.Quantity), "state", string(o.State), "warning", strings.Join(o.Warnings, "; "))...)
}

func newOrderUpdateCommand(flags *clientFlags) *cobra.Command {
	var quantity int64
	var state string
	cmd := &cobra.Command{
		Use: "update ID", Short: "Change a work order's quota, close it or open it again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var u enroll.WorkOrderUpdate
			if cmd.Flags().Changed("quantity") {
				u.Quantity = &quantity
			}
			if cmd.Flags().Changed("state") {
				u.State = new(enroll.OrderState(state))
			}
			c, err := flags.open()
			if err != nil {
				return err
			}
			o, err := c.UpdateWorkOrder(cmd.Context(), args[0], u, client.IdempotencyKey(uuid.NewString()))
			if err != nil {
				return clientError(err)
			}
			return printOrder(cmd, flags, o)
		},
	}
	cmd.Flags().Int64Var(&quantity, "quantity", 0, "how many devices may be enrolled")
	cmd.Flags().StringVar(&state, "state", "", "open or closed")
	return cmd
}
